"""Pairs for the shipped pocket, registered and promoted while a service watches."""

from __future__ import annotations

from pathlib import Path

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.evaluation.decision import Check, Decision
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.pocket.config import SHIPPED
from musubi_ext.pocket.random_lora import random_lora
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.promotion import promote, set_candidate

NAME = "circle-rotate"


def register(folder: Path, seed: int, uri: str) -> int:
    """A new version of `NAME`, its pair made in `folder`."""
    high, low = (random_lora(number, size=SHIPPED, down=0.1, up=0.1) for number in (seed, seed + 1000))
    return register_pair(AdapterPair.save(folder, f"pair{seed}", high, low), NAME, uri=uri)


def make_champion(version: int, uri: str) -> None:
    """Promote, as the pipeline does once a gate has passed."""
    set_candidate(NAME, version, uri=uri)
    decision = Decision((Check("drift", True, "drift fell", -1.0),), Thresholds.parse({}))
    promoted = promote(NAME, decision, {"of": "a test"}, uri=uri)
    assert promoted.champion == version, promoted
