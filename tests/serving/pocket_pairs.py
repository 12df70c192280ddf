"""Pairs for the shipped pocket, registered and promoted while a service watches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.evaluation.decision import Check, Decision
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.pocket.config import SHIPPED
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.promotion import promote, set_candidate

NAME = "circle-rotate"


def lora(seed: int, rank: int = 4) -> dict[str, Any]:
    """A complete LoRA in musubi keys for the pocket's experts, strong enough that two seeds give two videos."""
    generator, tensors, pocket = torch.Generator().manual_seed(seed), {}, SHIPPED
    narrow, wide = pocket.heads * pocket.head_dim, pocket.ffn
    shapes = {f"{kind}_attn_{part}": (narrow, narrow) for kind in ("self", "cross") for part in "qkvo"}
    shapes |= {"ffn_0": (wide, narrow), "ffn_2": (narrow, wide)}
    for block in range(pocket.layers):
        for name, (rows, columns) in shapes.items():
            key = f"lora_unet_blocks_{block}_{name}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(rank, columns, generator=generator) * 0.1
            tensors[f"{key}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) * 0.1
            tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    return tensors


def register(folder: Path, seed: int, uri: str) -> int:
    """A new version of `NAME`, its pair made in `folder`."""
    return register_pair(AdapterPair.save(folder, f"pair{seed}", lora(seed), lora(seed + 1000)), NAME, uri=uri)


def make_champion(version: int, uri: str) -> None:
    """Promote, as the pipeline does once a gate has passed."""
    set_candidate(NAME, version, uri=uri)
    decision = Decision((Check("drift", True, "drift fell", -1.0),), Thresholds.parse({}))
    promoted = promote(NAME, decision, {"of": "a test"}, uri=uri)
    assert promoted.champion == version, promoted
