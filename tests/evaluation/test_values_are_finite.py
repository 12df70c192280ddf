"""Whatever the frames hold, a value is finite and inside its range or there is a reason; a broken file has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.metrics.registry import Better, Metric
from musubi_ext.evaluation.result import Reading, results_document
from musubi_ext.evaluation.suite import Inputs, evaluate, measure_file, select
from musubi_ext.evaluation.truth import Truth
from musubi_ext.video import Frames, write_mp4

SHAPES = st.tuples(st.integers(1, 18), st.integers(1, 40), st.integers(1, 40))
KINDS = st.sampled_from(["noise", "black", "white", "still", "flash"])
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def frames_of(kind: str, shape: tuple[int, int, int]) -> Frames:
    frames = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    if kind == "flash":
        frames[::2], frames[1::2] = 0, 255
        return frames
    plain = {"black": 0, "white": 255}
    return (
        np.full_like(frames, plain[kind])
        if kind in plain
        else frames[:1].repeat(shape[0], 0)
        if kind == "still"
        else frames
    )


def strict(results: dict[str, object]) -> None:
    json.dumps(results_document({"clip": results}), allow_nan=False)


@settings(deadline=None, max_examples=25, suppress_health_check=SLOW)
@given(SHAPES, KINDS, st.integers(0, 3), st.booleans())
def test_no_metric_returns_nan_or_infinity(shape: tuple[int, int, int], kind: str, masked: int, fast: bool) -> None:
    frames = frames_of(kind, shape)
    masks = np.zeros(shape, bool)
    if masked:
        masks[:: 4 - masked, shape[1] // 2 :, : shape[2] // 2 + 1] = True
    truth = Truth(255 - frames, masks, np.zeros(shape[0], np.float32), 1)
    for given_masks in (masks, MaskSource.COLOR):
        found = evaluate(
            frames, truth=truth, masks=given_masks, profile="fast" if fast else "exact", threads=1, caption="a cat"
        )
        assert list(found) == list(METRICS)
        strict(found)
        for name, result in found.items():
            assert (result.value is None) != (result.unavailable is None), name
            assert result.unavailable != "", name
            low, high = METRICS[name].range
            if result.value is not None:
                assert np.isfinite(result.value), name
                assert low is None or result.value >= low - 1e-9, name
                assert high is None or result.value <= high + 1e-9, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_mp4(path, frames_of("noise", (9, 64, 64)), 16)
    return path.read_bytes()


@settings(deadline=None, max_examples=12, suppress_health_check=SLOW)
@given(cut=st.floats(0, 0.98), junk=st.binary(max_size=200), torn=st.booleans())
def test_a_clip_that_cannot_be_decoded_has_no_number(
    whole: bytes, tmp_path: Path, cut: float, junk: bytes, torn: bool
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(whole[: int(cut * len(whole))] if torn else junk)
    for result in evaluate(path).values():
        assert result.value is None
        assert "clip.mp4" in str(result.unavailable)


def test_damage_in_the_middle_leaves_no_number(whole: bytes, tmp_path: Path) -> None:
    """The first frames decode and are measured before the damage is met."""
    spoiled = bytearray(whole)
    spoiled[2 * len(whole) // 3 : 2 * len(whole) // 3 + 3000] = b"\x55" * 3000
    path = tmp_path / "clip.mp4"
    path.write_bytes(spoiled)
    measured = measure_file(path, select("all"), Inputs(threads=1))
    assert measured.problems
    assert all(result.value is None for result in measured.results.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_none_becomes_a_reason(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    def compute(clip: Clip) -> Reading:
        return Reading(value, 2)

    monkeypatch.setitem(METRICS, "odd", Metric("odd", "1", Better.REPORT, (None, None), "here", "numpy", compute))
    result = evaluate(frames_of("noise", (2, 16, 16)), metrics=["odd"])["odd"]
    assert result.value is None
    assert "not finite" in str(result.unavailable)
