"""A measurement that several metrics of a clip read, made once and forgotten with the clip."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.result import UnavailableError

T = TypeVar("T")


def once(measure: Callable[[Clip], T]) -> Callable[[Clip], T]:
    """`measure`, which then runs once for each clip; what it found unavailable stays so, for the same reason."""
    kept: WeakKeyDictionary[Clip, T | UnavailableError] = WeakKeyDictionary()

    @wraps(measure)
    def remembered(clip: Clip) -> T:
        if clip not in kept:
            try:
                kept[clip] = measure(clip)
            except UnavailableError as reason:
                kept[clip] = UnavailableError(str(reason))  # its traceback would hold the clip
        found = kept[clip]
        if isinstance(found, UnavailableError):
            raise UnavailableError(str(found))
        return found

    return remembered
