"""The orbit a clip's pixels show: direction, angle, negatives, mirrors, on rendered and real clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from musubi_ext.errors import UserError
from musubi_ext.orbits.captions import direction, mirror_caption
from musubi_ext.orbits.clips import load_frames, probe
from musubi_ext.orbits.geometry.adjustment import Adjustment
from musubi_ext.orbits.geometry.orbit import OrbitGeometry, estimate_orbit
from musubi_ext.orbits.geometry.tracks import follow
from musubi_ext.orbits.geometry.turntable import derivatives, prior, steady, view
from musubi_ext.orbits.raycast import cast, look_at, rays
from musubi_ext.orbits.render import Clip, render
from musubi_ext.orbits.scenes import sample_path, sample_scene

SIZE = (96, 96)


def rendered(seed: int, domain: str = "orbit", way: int = +1) -> Clip:
    return render(seed, domain, way, size=SIZE, frames=21, look="textured")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [rendered(seed, way=way) for seed, way in ((41, +1), (42, -1), (43, +1))]


def with_noise(frames: np.ndarray, level: float) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, level, frames.shape)
    return np.clip(frames + grain, 0, 255).astype(np.uint8)


def test_direction_and_angle_of_rendered_orbits(clips: list[Clip]) -> None:
    found = [estimate_orbit(clip.frames) for clip in clips]
    assert [one.direction for one in found] == [clip.direction for clip in clips]
    errors = [abs((one.swept_angle or 0) - 90) for one in found]
    assert max(errors) < 20
    assert np.median(errors) < 10
    for one in found:
        assert one.steadiness is not None
        assert one.steadiness < 0.15
        assert one.centring is not None
        assert one.centring < 0.1
        assert one.confidence > 0.4


def test_half_the_clip_is_half_the_angle(clips: list[Clip]) -> None:
    whole, half = estimate_orbit(clips[0].frames), estimate_orbit(clips[0].frames[:11])
    assert half.direction == whole.direction
    assert whole.swept_angle is not None
    assert half.swept_angle == pytest.approx(whole.swept_angle / 2, abs=8)


def test_backwards_is_the_other_direction(clips: list[Clip]) -> None:
    for clip in clips:
        assert estimate_orbit(clip.frames[::-1]).direction == -clip.direction


def test_a_mirrored_clip_turns_the_other_way_as_its_caption_says(clips: list[Clip]) -> None:
    for clip in clips:
        plain, mirrored = estimate_orbit(clip.frames), estimate_orbit(clip.frames[:, :, ::-1])
        assert mirrored.direction == -plain.direction == direction(mirror_caption(clip.caption))
        assert plain.swept_angle is not None
        assert mirrored.swept_angle == pytest.approx(plain.swept_angle, abs=4)


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_still_picture_is_no_orbit(level: float) -> None:
    found = estimate_orbit(with_noise(rendered(44, "static").frames, level))
    assert (found.direction, found.swept_angle) == (0, 0.0)
    assert "stands still" in found.unavailable["steadiness"]


@pytest.mark.parametrize("way", [+1, -1])
def test_a_pan_is_no_orbit(way: int) -> None:
    found = estimate_orbit(with_noise(rendered(45, "pan", way).frames, 3.0))
    assert (found.direction, found.swept_angle) == (0, 0.0)
    assert "turns on the spot" in found.unavailable["centring"]


def test_a_subject_that_moves_before_a_still_camera_is_no_orbit() -> None:
    frames = rendered(46, "static").frames.copy()
    for index, frame in enumerate(frames):
        frame[40:64, 10 + 2 * index : 34 + 2 * index] = clip_of_noise()
    assert estimate_orbit(frames).direction == 0


def clip_of_noise() -> np.ndarray:
    tiles = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.kron(tiles, np.ones((3, 3, 1), np.uint8))


def test_a_whole_round_closes() -> None:
    scene = sample_scene(47)
    path = sample_path(scene, 47, "orbit", +1, 41, degrees=360)
    flat = np.cos(path.elevation)
    away = np.stack([flat * np.cos(path.azimuth), flat * np.sin(path.azimuth), np.sin(path.elevation)], 1)
    camera = look_at((path.aim[:1] + path.radius[:, None] * away).astype(np.float32), path.aim)
    colour, _, _ = cast(scene, camera, path.subject, rays(camera, *SIZE, samples=1), textured=True)
    found = estimate_orbit((np.clip(colour, 0, 1) * 255).astype(np.uint8))
    assert found.direction == +1
    assert found.swept_angle is not None
    assert 300 < found.swept_angle < 420
    assert found.loop_closure is not None
    assert found.loop_closure > 0.95


def test_same_frames_same_figures(clips: list[Clip]) -> None:
    assert estimate_orbit(clips[1].frames) == estimate_orbit(clips[1].frames.copy())


def test_a_part_of_a_round_has_no_loop_to_close(clips: list[Clip]) -> None:
    found = estimate_orbit(clips[2].frames)
    assert found.loop_closure is None
    assert "less than a round" in found.unavailable["loop_closure"]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.full((20, 64, 64, 3), 127, np.uint8), "0 corners"),
        (np.zeros((4, 64, 64, 3), np.uint8), "4 frames"),
        (np.zeros((9, 4, 6, 3), np.uint8), "0 corners"),
        (np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8), ""),
    ],
    ids=["flat", "short", "tiny", "noise"],
)
def test_what_shows_no_motion_is_unavailable_for_a_reason(frames: np.ndarray, reason: str) -> None:
    found = estimate_orbit(frames)
    assert found.direction == 0
    assert found.swept_angle is None
    assert reason in found.unavailable["swept_angle"]


def test_every_value_is_there_or_has_its_reason(clips: list[Clip]) -> None:
    names = ("swept_angle", "steadiness", "centring", "centring_spread", "loop_closure")
    for frames in (clips[0].frames, clips[0].frames[:2], clips[0].frames[:1].repeat(20, 0)):
        found = estimate_orbit(frames)
        for name in names:
            assert (getattr(found, name) is None) == (name in found.unavailable), name
        assert 0 <= found.confidence <= 1


@pytest.mark.parametrize("frames", [np.zeros((9, 8, 8), np.uint8), np.zeros((9, 8, 8, 3), np.float32)])
def test_other_arrays_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(UserError, match="expected uint8"):
        estimate_orbit(frames)


def test_corners_are_followed_where_the_pose_says() -> None:
    clip = rendered(46)
    tracks = follow(clip.frames)
    assert tracks.size == SIZE
    first, last = 8, 11
    errors = []
    for start, end in tracks.xy[:, [first, last]]:
        if np.isnan([start, end]).any():
            continue
        column, row = np.round(start).astype(int)
        depth = clip.depth[first, row, column]
        ray = np.linalg.inv(clip.intrinsics) @ [start[0] + 0.5, start[1] + 0.5, 1]
        world = np.linalg.inv(clip.pose[first]) @ [*(ray * depth), 1]
        seen = clip.intrinsics @ (clip.pose[last] @ world)[:3]
        errors.append(np.hypot(*(seen[:2] / seen[2] - 0.5 - end)))
    assert len(errors) > 40
    assert np.median(errors) < 1


def test_derivatives_of_the_projection_are_its_differences() -> None:
    rng = np.random.default_rng(0)
    circle = steady(4, 3, 50)
    circle = type(circle)(circle.frames + rng.normal(0, 0.05, (4, 4)), circle.lens, rng.normal(0, 0.3, (3, 3)))
    by_point, by_state = derivatives(circle, view(circle))
    step = 1e-6

    def picture(frames: np.ndarray, lens: np.ndarray, points: np.ndarray) -> np.ndarray:
        moved = type(circle)(frames, lens, points)
        return view(moved).picture + frames[:, 1:3]

    here = picture(circle.frames, circle.lens, circle.points)
    for slot in range(4):
        there = picture(circle.frames + step * np.eye(4)[slot], circle.lens, circle.points)
        np.testing.assert_allclose((there - here) / step, by_state[..., slot], atol=1e-4)
    for slot in range(2):
        there = picture(circle.frames, circle.lens + step * np.eye(2)[slot], circle.points)
        np.testing.assert_allclose((there - here) / step, by_state[..., 4 + slot], atol=1e-4)
    for axis in range(3):
        there = picture(circle.frames, circle.lens, circle.points + step * np.eye(3)[axis])
        np.testing.assert_allclose((there - here) / step, by_point[..., axis], atol=1e-4)


def test_exact_sightings_of_a_circle_give_its_angle() -> None:
    rng = np.random.default_rng(1)
    truth = steady(17, 60, 75)
    assert np.isclose(prior(17)[0] @ truth.state, prior(17)[1]).all()
    truth = type(truth)(truth.frames, truth.lens, rng.uniform(-0.5, 0.5, (60, 3)))
    found = Adjustment(view(truth).picture, 1e-3).best(+1)
    assert found.angle[-1] == pytest.approx(75, abs=1)
    assert found.cost < Adjustment(view(truth).picture, 1e-3).best(-1).cost / 2


def test_real_clips_and_their_mirrors(sample_data: Path) -> None:
    """Seen by eye: in both clips the background moves right and the near ground left, so the camera moves right.

    That is "left to right" in the renderer's words, which their captions, written by hand, contradict.
    """
    for name in ("demo7", "demo2"):
        path = sample_data / "train" / f"{name}.mp4"
        frames = load_frames(path, probe(path).size)
        plain, mirrored = estimate_orbit(frames), estimate_orbit(frames[:, :, ::-1])
        assert (plain.direction, mirrored.direction) == (-1, +1)
        assert plain.swept_angle is not None
        assert mirrored.swept_angle == pytest.approx(plain.swept_angle, abs=3)
        words = path.with_suffix(".txt").read_text(encoding="utf-8")
        assert direction(mirror_caption(words)) == -direction(words)


def test_the_estimate_is_a_value() -> None:
    found = estimate_orbit(np.zeros((2, 8, 8, 3), np.uint8))
    assert isinstance(found, OrbitGeometry)
    assert found == estimate_orbit(np.ones((2, 8, 8, 3), np.uint8))
