"""How long the parts of a training step take in which the extension and musubi-tuner differ, in seconds a step."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

from musubi_ext.hosts import extension
from musubi_ext.hosts.extension import OrbitExtension
from musubi_ext.hosts.musubi.importing import import_host, import_host_module
from musubi_ext.hosts.musubi.logs import HostLog
from musubi_ext.hosts.musubi.pocket_task import PocketParts
from musubi_ext.hosts.musubi.trainer import MusubiHost
from musubi_ext.hosts.phases import Bar

THEIRS, OURS = "upstream", "ours"
LOSS = "loss"


def watched() -> list[tuple[Any, str, str]]:
    """(Owner, method, part) of everything that is timed; upstream's parts are part of ours where ours calls them."""
    from tqdm import tqdm

    upstream = import_host().WanNetworkTrainer
    bucket = import_host_module("musubi_tuner.dataset.bucket").BucketBatchManager
    return [
        (bucket, "__getitem__", "read the batch"),
        (upstream, "get_noisy_model_input_and_timesteps", "draw t and add the noise"),
        (OrbitExtension, "get_noisy_model_input_and_timesteps", "draw t and add the noise"),
        (PocketParts, "_widened", "cut the text to the model's length"),
        (upstream, "compute_loss", LOSS),
        (OrbitExtension, "compute_loss", "check the loss and keep it"),
        (extension, "band_losses", "loss by frequency band"),
        (OrbitExtension, "on_post_optimizer_step", "numbers of the step"),
        (tqdm, "update", "progress bar"),
        (tqdm, "set_postfix", "progress bar"),
        (Bar, "update", "progress bar"),
        (HostLog, "step", "average loss"),
        (MusubiHost, "weights_updated", "what may be due: validation, samples"),
    ]


class Parts:
    """Times of parts by side; a part that calls another is counted without it. Set `side` before a training."""

    def __init__(self) -> None:
        self.side = THEIRS
        self._taken: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self._inner: list[float] = [0.0]

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Within the block the parts of both trainers are timed."""
        with ExitStack() as stack:
            for owner, name, part in watched():
                stack.enter_context(patch.object(owner, name, self._wrap(getattr(owner, name), part)))
            yield

    def _wrap(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.perf_counter() - started
                self._taken[part, self.side].append(taken - self._inner.pop())
                self._inner[-1] += taken

        return timed

    def medians(self) -> dict[str, dict[str, float | None]]:
        """Part → side → seconds a step (median call × calls a step); None where that side has no such part."""
        steps = {side: len(self._taken[LOSS, side]) for side in (THEIRS, OURS)}
        found = {key: median(taken) * len(taken) / steps[key[1]] for key, taken in self._taken.items() if taken}
        names = dict.fromkeys(part for part, _ in self._taken)
        return {part: {side: found.get((part, side)) for side in (THEIRS, OURS)} for part in names}
