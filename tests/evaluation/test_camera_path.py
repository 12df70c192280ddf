"""Pan, zoom and roll of the view: exact on pictures that are moved exactly, right on rendered cameras that turn."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musubi_ext.evaluation.asked import Asked, CameraMove, CameraPoses
from musubi_ext.evaluation.camera_path import View, at_centre, measure_view, view_matrix, view_of
from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.metrics.camera_error import pan_errors, roll_errors, zoom_errors
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.orbits.render import render
from musubi_ext.video import Frames

SIZE = (120, 90)
COUNT = 17


def texture() -> Frames:
    """Blotches of several sizes (360, 480, 3), with edges to hold on to."""
    rng = np.random.default_rng(3)
    layers = [cv2.resize(rng.uniform(0, 255, (360 // s, 480 // s, 3)), (480, 360)) for s in (4, 12, 40)]
    return np.clip(np.mean(layers, axis=0) * 1.6 - 75, 0, 255).astype(np.uint8)


def filmed(pan: np.ndarray, zoom: np.ndarray, roll: np.ndarray) -> Frames:
    """The texture's middle seen by a camera with these views (F, 2), (F,), (F,)."""
    picture = texture()
    middle = np.array([[1, 0, (480 - SIZE[0]) / 2], [0, 1, (360 - SIZE[1]) / 2], [0, 0, 1]])
    rng = np.random.default_rng(0)
    frames = []
    for view in zip(pan, zoom, roll, strict=True):
        map_ = view_matrix(*view, SIZE) @ np.linalg.inv(middle)
        frames.append(
            cv2.warpPerspective(picture, map_, SIZE, flags=cv2.INTER_CUBIC) + rng.normal(0, 2, (*SIZE[::-1], 3))
        )
    return np.clip(frames, 0, 255).astype(np.uint8)


def gray(frames: Frames) -> np.ndarray:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


T = np.linspace(0, 1, COUNT)
STILL, ONE, NONE = np.zeros((COUNT, 2)), np.ones(COUNT), np.zeros(COUNT)
MOVES = {
    "still": (STILL, ONE, NONE),
    "right": (T[:, None] * [60, 0], ONE, NONE),
    "up and left": (T[:, None] * [-30, -25], ONE, NONE),
    "in": (STILL, 2.0**T, NONE),
    "out": (STILL, 0.7**T, NONE),
    "clockwise": (STILL, ONE, 30 * T),
    "all": (T[:, None] * [15, 8], 1.3**T, -12 * T),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_of_a_picture_are_measured(name: str) -> None:
    pan, zoom, roll = MOVES[name]
    found = measure_view(gray(filmed(pan, zoom, roll)))
    assert found.known.all()
    assert np.linalg.norm(found.pan - pan, axis=1).max() < 0.25
    assert np.abs(found.zoom / zoom - 1).max() < 0.005
    assert np.abs(found.roll - roll).max() < 0.2


def test_signs_are_those_of_the_camera() -> None:
    """A camera that pans right and down shows at the centre what was right of and below it; zoom enlarges."""
    frames = filmed(np.array([[0, 0], [20, 10]]), np.ones(2), np.zeros(2))
    crop = frames[0, 45 + 10 - 8 : 45 + 10 + 8, 60 + 20 - 8 : 60 + 20 + 8].astype(int)
    assert np.abs(crop - frames[1, 45 - 8 : 45 + 8, 60 - 8 : 60 + 8]).mean() < 4
    corner = np.array([[1.0, 0.0, 1.0]])  # a point to the right of the centre, seen by a camera that rolls clockwise
    turned = corner @ view_matrix([0, 0], 1, 90, (1, 1)).T
    np.testing.assert_allclose(turned[0, :2], [0, -1], atol=1e-9)  # now above it


@given(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), st.floats(0.1, 10), st.floats(-179, 179))
def test_views_and_their_matrices_are_inverse(pan: tuple[float, float], zoom: float, roll: float) -> None:
    view = view_of(view_matrix(pan, zoom, roll, SIZE)[None], SIZE)
    np.testing.assert_allclose(view.pan[0], pan, atol=1e-6)
    np.testing.assert_allclose([view.zoom[0], view.roll[0]], [zoom, roll], rtol=1e-9, atol=1e-7)


def test_a_subject_that_fills_much_of_the_picture_does_not_count() -> None:
    frames = filmed(*MOVES["right"])
    mask = np.zeros(frames.shape[:3], bool)
    rng = np.random.default_rng(1)
    subject = cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (70, 70), interpolation=cv2.INTER_NEAREST)
    for index in range(COUNT):
        frames[index, 10:80, 15 + index : 85 + index] = subject
        mask[index, 10:80, 15 + index : 85 + index] = True
    found = measure_view(gray(frames), mask)
    assert np.linalg.norm(found.pan - MOVES["right"][0], axis=1)[found.known].max() < 0.8
    assert found.known.mean() > 0.9


def rendered_view(pose: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> View:
    """Exact view of a camera that turns on the spot, from its poses."""
    lens = intrinsics.astype(np.float64)
    lens[:2, 2] -= 0.5  # the renderer's pixel centres lie at integer + 0.5
    turns = pose[:, :3, :3].astype(np.float64)
    maps = [np.eye(3)]
    for before, after in pairwise(turns):
        maps.append(at_centre(lens @ after @ before.T @ np.linalg.inv(lens), size) @ maps[-1])
    return view_of(np.stack(maps), size)


def test_rendered_pans_are_measured() -> None:
    errors = []
    for seed in range(4):
        clip = render(seed, "pan", 1 if seed % 2 else -1, size=(128, 128), frames=COUNT, look="textured")
        found, truth = measure_view(gray(clip.frames), clip.mask), rendered_view(clip.pose, clip.intrinsics, (128, 128))
        assert found.known.all()
        assert np.linalg.norm(truth.pan[-1]) > 30
        errors.append(np.linalg.norm(found.pan - truth.pan, axis=1).mean())
        assert np.abs(found.zoom / truth.zoom - 1).max() < 0.02
        assert np.abs(found.roll - truth.roll).max() < 0.5
    assert max(errors) < 0.6


def asked_for(name: str, **changes: float) -> Asked:
    pan, zoom, roll = MOVES[name]
    move = CameraMove(np.arange(COUNT) / 8, pan + changes.get("pan", 0) * T[:, None], zoom, roll)
    return Asked(camera=move, size=SIZE, fps=8, frames=COUNT)


def value(metric: str, clip: Clip) -> float:
    return METRICS[metric].compute(clip).value


def test_errors_are_the_difference_of_asked_and_shown() -> None:
    frames = filmed(*MOVES["all"])
    right = Clip(frames, asked=asked_for("all"))
    assert value("camera_pan_error", right) < 0.1
    assert value("camera_zoom_error", right) < 0.003
    assert value("camera_roll_error", right) < 0.1
    still = Clip(frames[:1].repeat(COUNT, 0), asked=asked_for("all"))
    later = slice(1, None)
    pan, zoom, roll = MOVES["all"]
    assert value("camera_pan_error", still) == pytest.approx(np.linalg.norm(pan[later], axis=1).mean(), abs=0.01)
    assert value("camera_zoom_error", still) == pytest.approx((zoom[later] - 1).mean(), abs=1e-3)
    assert value("camera_roll_error", still) == pytest.approx(np.abs(roll[later]).mean(), abs=0.01)
    assert METRICS["camera_roll_error"].compute(still).frames == COUNT - 1


def test_errors_in_closed_form() -> None:
    one = View(np.array([[3.0, 4.0]]), np.array([2.0]), np.array([175.0]))
    other = View(np.zeros((1, 2)), np.array([1.0]), np.array([-175.0]))
    for a, b in ((one, other), (other, one)):
        assert pan_errors(a, b)[0] == 5
        assert zoom_errors(a, b)[0] == pytest.approx(1)
        assert roll_errors(a, b)[0] == pytest.approx(10)


def test_what_cannot_be_compared_is_unavailable_for_a_reason() -> None:
    frames = filmed(*MOVES["still"])
    poses = CameraPoses(np.zeros(1), np.eye(3)[None], np.zeros((1, 3)))
    flat = np.full_like(frames, 99)
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)
    for clip, words in (
        (Clip(frames), "not given"),
        (Clip(frames, asked=Asked(direction=1)), "no camera move"),
        (Clip(frames, asked=Asked(camera=poses)), "R and T"),
        (Clip(frames[:1], asked=asked_for("in")), "two frames"),
        (Clip(flat, asked=asked_for("in")), "followed in 0 of 16"),
        (Clip(noise, asked=asked_for("in")), "below 90%"),
    ):
        with pytest.raises(UnavailableError, match=words):
            value("camera_zoom_error", clip)
