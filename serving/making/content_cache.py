"""What was computed from the same content before: tensors by key, the least recently used forgotten first."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

Tensors: TypeAlias = "dict[str, Tensor]"


class ContentCache:
    """Tensors in the computer's memory, at most `limit` bytes of them. What comes out is what went in, bit for bit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[str, Tensors] = OrderedDict()

    def get(self, key: str, compute: Callable[[], Tensors]) -> Tensors:
        """The tensors of `key`, on the CPU where they are kept; computed, and kept if they fit, when there are none."""
        if (found := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            self.hits += 1
            return found
        self.misses += 1
        # a copy of its own: a view would keep all of what it is a part of
        made = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in compute().items()}
        size = _size(made)
        if size <= self.limit:
            self._kept[key] = made
            self.bytes += size
            while self.bytes > self.limit:
                _, dropped = self._kept.popitem(last=False)
                self.bytes -= _size(dropped)
        return made

    def __len__(self) -> int:
        return len(self._kept)


def content_key(*parts: Any) -> str:
    """Hex SHA-256 of plain JSON values: two contents share a key only when every part is the same."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _size(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
