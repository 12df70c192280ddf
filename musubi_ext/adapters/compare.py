"""How far two pairs are apart: in what they say of themselves, and in what they add to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from musubi_ext.adapters.keys import Format
from musubi_ext.adapters.updates import Update, updates


def compare_weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Any]:
    """Two LoRAs in musubi keys, by the updates (alpha/rank)·up @ down they add at strength 1.

    `norm_a`, `norm_b`: Frobenius norms over all layers; `cosine` of the two updates; `relative_difference` ‖a − b‖/‖a‖;
    both are None where a norm is 0. `only_a`, `only_b`: layers that one of them leaves alone; `identical`: bit for bit.
    """
    left, right = updates(a), updates(b)
    squares = {"a": _total(left, left), "b": _total(right, right)}
    product = _total(left, right)
    known = squares["a"] > 0 and squares["b"] > 0
    difference = max(squares["a"] + squares["b"] - 2 * product, 0.0)
    return {
        "identical": a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a),
        "norm_a": math.sqrt(squares["a"]),
        "norm_b": math.sqrt(squares["b"]),
        "cosine": product / math.sqrt(squares["a"] * squares["b"]) if known else None,
        "relative_difference": math.sqrt(difference / squares["a"]) if known else None,
        "only_a": [module.path(Format.MUSUBI) for module in left if module not in right],
        "only_b": [module.path(Format.MUSUBI) for module in right if module not in left],
    }


def compare_manifests(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Entries that differ, by dotted path: [value in a, value in b], None where there is none."""
    different: dict[str, list[Any]] = {}
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            different |= compare_manifests(left, right, f"{prefix}{key}.")
        elif left != right:
            different[prefix + key] = [left, right]
    return different


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _total(a: Mapping[Any, Update], b: Mapping[Any, Update]) -> float:
    """Inner product of the updates over all layers; layers of one side only contribute 0."""
    return math.fsum(_inner(a[module], b[module]) for module in a if module in b)


def _inner(a: Update, b: Update) -> float:
    """⟨Ua·Da, Ub·Db⟩ = tr((Uaᵀ·Ub)·(Db·Daᵀ)): rank × rank matrices only, a 14B layer's product is never formed."""
    if a.up.shape[0] != b.up.shape[0] or a.down.shape[1] != b.down.shape[1]:
        return 0.0  # layers of different models have nothing in common
    ups, downs = a.up.double().T @ b.up.double(), b.down.double() @ a.down.double().T
    return float((ups * downs.T).sum()) * (a.alpha / a.rank) * (b.alpha / b.rank)
