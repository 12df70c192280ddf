"""Videos whose metrics are known by arithmetic, measured through the whole suite with the truth's own masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Truth
from musubi_ext.video import Frames

SIZE = 256


def texture(seed: int) -> Frames:
    """A smooth random picture (2·SIZE, 2·SIZE, 3)."""
    coarse = np.random.default_rng(seed).integers(40, 255, (2 * SIZE // 8, 2 * SIZE // 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (2 * SIZE, 2 * SIZE), interpolation=cv2.INTER_CUBIC), np.uint8)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def scene(steps: list[tuple[float, float]], background: list[tuple[int, int]], margin: float = 0) -> Truth:
    """A textured disc at each step, over a texture shifted by `background`; `margin`: a plain ring around the disc."""
    back, front = texture(0), texture(1)
    frames, masks = [], []
    for (x, y), (dx, dy) in zip(steps, background, strict=True):
        frame = back[100 + dy : 100 + dy + SIZE, 100 + dx : 100 + dx + SIZE].copy()
        mask = disc(x, y, 40)
        frame[disc(x, y, 40 + margin)] = 128
        top, left = SIZE // 2 + round(128 - y), SIZE // 2 + round(128 - x)
        frame[mask] = front[top : top + SIZE, left : left + SIZE][mask]
        frames.append(frame)
        masks.append(mask)
    return Truth(np.stack(frames), np.stack(masks), np.zeros(len(frames), np.float32), 0)


def measured(truth: Truth) -> dict[str, float | None]:
    names = ["subject_drift", "subject_flow", "global_flow"]
    found = evaluate(truth.frames, truth=truth, masks=MaskSource.TRUTH, metrics=names)
    assert {result.masks for result in found.values()} == {"truth", ""}
    return {name: result.value for name, result in found.items()}


@pytest.mark.parametrize(("vx", "vy"), [(1, 0), (0, 2), (3, 4)])
def test_a_disc_that_moves_v_pixels_per_sample(vx: int, vy: int) -> None:
    steps = [(70.0 + vx * i, 80.0 + vy * i) for i in range(16)]
    found = measured(scene(steps, [(0, 0)] * 16))
    assert found["subject_drift"] == pytest.approx(4.609772228646444 * np.hypot(vx, vy), rel=1e-12)
    assert found["subject_flow"] == pytest.approx(np.hypot(vx, vy), rel=0.2)


def test_a_still_disc_in_a_still_picture() -> None:
    found = measured(scene([(128, 128)] * 16, [(0, 0)] * 16))
    assert found["subject_drift"] == 0
    assert found["subject_flow"] == pytest.approx(0, abs=1e-5)
    assert found["global_flow"] == pytest.approx(0, abs=1e-3)  # OpenCV's border


def test_a_background_that_circles_alone_is_not_the_subjects_motion() -> None:
    """Exactly 0 where the window of the flow sees no background; beside the edge it bleeds over."""
    circle = [(round(8 * np.cos(a)), round(8 * np.sin(a))) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]
    found = measured(scene([(128, 128)] * 16, circle, margin=30))
    assert found["subject_drift"] == 0
    assert found["subject_flow"] == pytest.approx(0, abs=1e-4)
    assert (found["global_flow"] or 0) > 2
    close = measured(scene([(128, 128)] * 16, circle))
    assert (close["subject_flow"] or 0) < 0.15 * (close["global_flow"] or 0)


def test_drift_from_the_truth_is_what_the_camera_did_not_ask_for() -> None:
    """The truth's disc moves by the camera: following it is no drift, standing still is, and so is double speed."""
    steps = [(90.0 + 2 * i, 128.0) for i in range(16)]
    truth = scene(steps, [(0, 0)] * 16)

    def drift(places: list[tuple[float, float]]) -> float | None:
        video = scene(places, [(0, 0)] * 16)
        name = "subject_drift_from_truth"
        return evaluate(video.frames, truth=truth, masks=video.masks, metrics=[name])[name].value

    assert drift(steps) == 0
    assert drift([steps[0]] * 16) == pytest.approx(4.609772228646444 * 2, rel=1e-12)
    assert drift([(90.0 + 4 * i, 128.0) for i in range(16)]) == pytest.approx(4.609772228646444 * 2, rel=1e-12)
    aside = [(x, y + 20) for x, y in steps]
    assert drift(aside) == pytest.approx(0, abs=1e-12)
