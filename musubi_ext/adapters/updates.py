"""The low-rank updates that a LoRA's tensors make up, and what can be wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from musubi_ext.adapters.keys import Format, Module, Part, parse_key, spell_key
from musubi_ext.errors import Problems

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SHOWN = 10  # names in one message
_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Update:
    """W += (alpha/rank)·up @ down for one linear layer."""

    down: Tensor  # (rank, in)
    up: Tensor  # (out, rank)
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the layer."""
        return self.up.shape[0], self.down.shape[1]

    def delta(self) -> Tensor:
        """What is added to the layer's weight at strength 1: float64 (out, in)."""
        return (self.alpha / self.rank) * (self.up.double() @ self.down.double())

    def has_effect(self) -> bool:
        """Whether the update is anything but zero; a freshly made LoRA (up = 0) is not."""
        return bool(self.down.any()) and bool(self.up.any())


def updates(weights: Mapping[str, Tensor]) -> dict[Module, Update]:
    """The updates of a checked LoRA in musubi keys, by module in order. An absent alpha means alpha = rank."""
    parts = _by_module(weights)
    return {module: _update(parts[module]) for module in sorted(parts)}


def check_updates(weights: Mapping[str, Tensor], where: object, problems: Problems) -> None:
    """Record everything that keeps `weights` (musubi keys) from being a LoRA; each problem names the tensor."""
    if not weights:
        problems.add(where, "holds no tensors", "expected a LoRA of Wan's transformer blocks")
    for name, tensor in weights.items():
        if tensor.dtype not in FLOATS and not name.endswith(".alpha"):
            problems.add(where, f"{name} is {_dtype(tensor)}, expected floating point")
    infinite = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if infinite:
        problems.add(where, f"NaN or infinity in {listed(infinite)}", "training diverged, or the file is damaged")
    for module, parts in sorted(_by_module(weights).items()):
        _check_module(module, parts, where, problems)


def one_or_all(values: Iterable[_Item]) -> _Item | list[_Item]:
    """The value if it is the same everywhere, else the distinct ones, sorted. Of ranks and alphas, for manifests."""
    distinct = sorted(set(values))  # type: ignore[type-var]
    return distinct[0] if len(distinct) == 1 else distinct


def main_dtype(weights: Mapping[str, Tensor]) -> str:
    """The type of most of the matrices: "float16"."""
    return Counter(_dtype(tensor) for tensor in weights.values() if tensor.ndim == 2).most_common(1)[0][0]


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first ten and how many more."""
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _by_module(weights: Mapping[str, Tensor]) -> dict[Module, dict[Part, Tensor]]:
    parts: dict[Module, dict[Part, Tensor]] = {}
    for name, tensor in weights.items():
        parsed = parse_key(name, Format.MUSUBI)
        if parsed is None:
            raise KeyError(f"{name} is no musubi-tuner key")
        parts.setdefault(parsed[0], {})[parsed[1]] = tensor
    return parts


def _update(parts: Mapping[Part, Tensor]) -> Update:
    down, up = parts[Part.DOWN], parts[Part.UP]
    return Update(down, up, float(parts[Part.ALPHA].item()) if Part.ALPHA in parts else float(down.shape[0]))


def _check_module(module: Module, parts: Mapping[Part, Tensor], where: object, problems: Problems) -> None:
    missing = [spell_key(module, part, Format.MUSUBI) for part in (Part.DOWN, Part.UP) if part not in parts]
    if missing:
        problems.add(where, f"{listed(missing)} missing", "the other half alone has no meaning")
    for part in (Part.DOWN, Part.UP):
        if part in parts and (parts[part].ndim != 2 or 0 in parts[part].shape):
            name = spell_key(module, part, Format.MUSUBI)
            problems.add(where, f"{name} has shape {tuple(parts[part].shape)}, expected a matrix")
            return
    if not missing and parts[Part.DOWN].shape[0] != parts[Part.UP].shape[1]:
        ranks = f"down has rank {parts[Part.DOWN].shape[0]}, up has rank {parts[Part.UP].shape[1]}"
        problems.add(where, f"{module.path(Format.MUSUBI)}: {ranks}")
    alpha = parts.get(Part.ALPHA)
    if alpha is not None and (alpha.numel() != 1 or alpha.is_complex() or not float(alpha.real.item()) > 0):
        name = spell_key(module, Part.ALPHA, Format.MUSUBI)
        problems.add(where, f"{name} is {alpha.tolist()}, expected one number > 0")
