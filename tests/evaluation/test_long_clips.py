"""A clip too long to be held is measured in one pass, in bounded memory, with the values it would have if held."""

from __future__ import annotations

import dataclasses
import gc
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest

from musubi_ext.evaluation import stream, suite
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.result import Result
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Truth
from musubi_ext.orbits.decode import pool
from musubi_ext.video import Frames, write_mp4

ONE_PASS = ["motion_magnitude", "global_flow", "dynamic_degree", "psnr_first_last", "ssim_first_last"]
ALL_FRAMES = ["subject_drift", "subject_flow"]


def panning(count: int, height: int = 64, width: int = 80) -> Frames:
    wide = np.random.default_rng(0).integers(0, 255, (height // 4 + 1, (width + 2 * count) // 4 + 1, 3))
    wide = wide.astype(np.uint8).repeat(4, 0).repeat(4, 1)
    return np.stack([wide[:height, 2 * i : 2 * i + width] for i in range(count)])


def clip(path: Path, count: int, height: int = 64, width: int = 80) -> Path:
    write_mp4(path, panning(count, height, width), 16, crf=30)
    return path


def evaluate_at(path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> dict[str, Result]:
    monkeypatch.setattr(stream, "HELD_BYTES", limit)
    return evaluate(path, metrics=ONE_PASS + ALL_FRAMES, masks=MaskSource.FLOW, threads=1)


def test_values_are_those_of_a_held_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "clip.mp4", 40)
    held, long = (evaluate_at(path, monkeypatch, limit) for limit in (1 << 30, 1 << 16))
    for name in ONE_PASS:
        assert long[name] == held[name], name
        assert held[name].value is not None
    for name in ALL_FRAMES:
        assert "needs all 40 frames at once" in str(long[name].unavailable)


def test_one_pass_serves_every_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, passes = clip(tmp_path / "clip.mp4", 20), []
    decode = pool.stream

    def counted(*of: object) -> object:
        passes.append(of)
        return decode(*of)

    monkeypatch.setattr(pool, "stream", counted)
    for limit in (1 << 30, 1 << 16):
        evaluate_at(path, monkeypatch, limit)
    assert len(passes) == 2


def test_memory_does_not_grow_with_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The long clip has ten times the frames of the short one: 66 MB of them against 7 MB."""
    paths = [clip(tmp_path / f"{count}.mp4", count, 144, 256) for count in (60, 600)]
    monkeypatch.setattr(stream, "HELD_BYTES", 1 << 20)
    peaks = []
    for path in paths:
        tracemalloc.start()
        found = evaluate(path, metrics=ONE_PASS, profile="fast", threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert all(result.value is not None for result in found.values())
    assert peaks[1] < 1.1 * peaks[0] + (1 << 20)
    assert peaks[1] < 20 << 20


def test_a_container_that_counts_wrong_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "clip.mp4", 24)
    expected = evaluate(path, metrics=ONE_PASS, threads=1)
    probe = pool.probe

    def wrong(of: Path) -> object:
        return dataclasses.replace(probe(of), frames=31)

    monkeypatch.setattr(pool, "probe", wrong)
    for limit in (1 << 30, 1 << 16):
        monkeypatch.setattr(stream, "HELD_BYTES", limit)
        assert evaluate(path, metrics=ONE_PASS, threads=1) == expected


@pytest.mark.parametrize("given", [True, False])
def test_a_measured_clip_is_let_go_at_once(monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    """Frames that wait for the garbage collector add up to gigabytes."""
    held: list[weakref.ref[Clip]] = []

    class Watched(Clip):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)
            held.append(weakref.ref(self))

    monkeypatch.setattr(suite, "Clip", Watched)
    frames = panning(17)
    truth = Truth(frames, np.ones(frames.shape[:3], bool), np.zeros(17, np.float32), 1) if given else None
    left = []
    gc.collect()
    gc.disable()
    try:
        for metric in METRICS:
            evaluate(frames, truth=truth, metrics=[metric], threads=1)
            left += [metric] if held.pop()() is not None else []
    finally:
        gc.enable()
    assert left == []
