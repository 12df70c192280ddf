"""Both experts at once: the same adapters, tracked by the parent; one that fails does not stop the other."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from musubi_ext.adapters.files import read_lora
from musubi_ext.hosts.arguments import parse
from musubi_ext.hosts.endings import TrainingFailed
from musubi_ext.hosts.phases import run_in_turn
from musubi_ext.hosts.resolve import resolve
from musubi_ext.hosts.seam import NoTracking
from musubi_ext.hosts.side_by_side import run_side_by_side
from musubi_ext.schedule.experts import Expert


class Remembering(NoTracking):
    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.status: list[str] = []

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.metrics.append((step, dict(metrics)))

    def close(self, status: Any = "FINISHED") -> None:
        self.status.append(status)


def test_one_fails_and_the_other_is_as_trained_alone(words_of: Callable[..., list[str]], tmp_path: Path) -> None:
    high, low = resolve(parse(words_of(tmp_path / "two"))).jobs
    diverging = Namespace(**{**vars(high.args), "learning_rate": 1e30, "optimizer_type": "SGD", "max_grad_norm": 0.0})
    alone = resolve(parse(words_of(tmp_path / "one", "--experts", "low"))).jobs
    none: dict[Expert, dict[str, str]] = {Expert.HIGH: {}, Expert.LOW: {}}
    console = Console(file=StringIO())

    expected = Remembering()
    run_in_turn(alone, none, lambda expert: expected, console)
    trackers = {Expert.HIGH: Remembering(), Expert.LOW: Remembering()}
    with pytest.raises(TrainingFailed, match="high expert: the loss is"):
        run_side_by_side([replace(high, args=diverging), low], none, trackers.__getitem__, console)

    a, b = read_lora(alone[0].path), read_lora(low.path)
    assert a.metadata == b.metadata
    assert all(torch.equal(a.tensors[key], b.tensors[key]) for key in a.tensors)
    assert not high.path.exists()
    assert {expert: tracker.status for expert, tracker in trackers.items()} == {
        Expert.HIGH: ["FAILED"],
        Expert.LOW: ["FINISHED"],
    }

    def losses(tracker: Remembering) -> list[tuple[int, float]]:
        return [(step, values["loss"]) for step, values in tracker.metrics if "loss" in values]

    assert losses(trackers[Expert.LOW]) == losses(expected)


def test_in_turn_the_second_is_trained_though_the_first_fails(
    words_of: Callable[..., list[str]], tmp_path: Path
) -> None:
    high, low = resolve(parse(words_of(tmp_path / "two", "--max_train_steps", "2"))).jobs
    diverging = Namespace(**{**vars(high.args), "learning_rate": 1e30, "optimizer_type": "SGD", "max_grad_norm": 0.0})
    none: dict[Expert, dict[str, str]] = {Expert.HIGH: {}, Expert.LOW: {}}
    tracker = Remembering()
    with pytest.raises(TrainingFailed, match="high expert"):
        run_in_turn([replace(high, args=diverging), low], none, lambda expert: tracker, Console(file=StringIO()))
    assert low.path.exists()
    assert tracker.status == ["FAILED", "FINISHED"]
