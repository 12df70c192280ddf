"""Requests: what files ask for, in a video's pixels and frames; every mistake of a file at once; hostile files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from musubi_ext.errors import UserError
from musubi_ext.evaluation.asked import Asked, AskedObject, CameraMove, CameraPoses, Pace, caption_asks
from musubi_ext.evaluation.motion_json import read_document


def motion(**changes: Any) -> dict[str, Any]:
    """A right motion JSON of five frames, some keys changed; None takes one out."""
    points = [[10.0 * i, 20.0] for i in range(5)]
    whole = {
        "size": [100, 50],
        "fps": 4,
        "frames": 5,
        "objects": [{"id": "car", "box": [0, 10, 20, 30], "points": points, "visible": [True] * 5}],
        "camera": [{"t": 0, "zoom": 1}, {"t": 1, "pan": [8, -4], "zoom": 2, "roll": 10}],
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None}


def load(folder: Path, content: Any, name: str = "asked.json", **options: Any) -> Asked:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return Asked.load(path, **options)


def problems(folder: Path, content: Any, name: str = "asked.json") -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        load(folder, content, name)
    assert all(problem.startswith(str(folder)) for problem in caught.value.problems)
    return caught.value.problems


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_motion_json_at_its_own_size_and_pace(tmp_path: Path) -> None:
    asked = load(tmp_path, motion(), caption="a cat, Circle Right->Left")
    assert (asked.size, asked.fps, asked.frames, asked.direction) == ((100, 50), 4, 5, +1)
    fitted = asked.fitted(5, (100, 50), None)
    assert fitted.objects[0].box == (0, 10, 20, 30)
    np.testing.assert_allclose(fitted.objects[0].path, [[10 * i, 20] for i in range(5)])
    assert fitted.view is not None
    np.testing.assert_allclose(fitted.view.pan, [[2 * i, -i] for i in range(5)], atol=1e-9)
    np.testing.assert_allclose(fitted.view.zoom, 1 + np.arange(5) / 4)
    np.testing.assert_allclose(fitted.view.roll, 2.5 * np.arange(5), atol=1e-9)


def test_motion_json_for_a_larger_video_at_twice_the_rate(tmp_path: Path) -> None:
    fitted = load(tmp_path, motion()).fitted(11, (200, 200), 8.0)
    path = fitted.objects[0].path
    np.testing.assert_allclose(path[:9], [[10 * i, 80] for i in range(9)])
    assert np.isnan(path[10:]).all()  # a frame beyond the end: nothing is asked there
    assert fitted.objects[0].box == (0, 40, 40, 120)
    assert fitted.view is not None
    np.testing.assert_allclose(fitted.view.pan[8], [16, -16], atol=1e-9)


def test_as_many_frames_as_asked_for_are_taken_one_by_one_whatever_the_rate(tmp_path: Path) -> None:
    fitted = load(tmp_path, motion()).fitted(5, (100, 50), 24.0)
    np.testing.assert_allclose(fitted.objects[0].path[:, 0], [0, 10, 20, 30, 40])


def test_without_a_rate_the_path_spans_the_video(tmp_path: Path) -> None:
    fitted = load(tmp_path, motion()).fitted(9, (100, 50), None)
    np.testing.assert_allclose(fitted.objects[0].path[:, 0], np.arange(9) * 5)


def test_hidden_points_are_not_asked_for(tmp_path: Path) -> None:
    objects = [{"id": 1, "points": [[1, 1]] * 5, "visible": [True, True, False, True, True]}]
    fitted = load(tmp_path, motion(objects=objects)).fitted(9, (100, 50), None)
    assert np.isnan(fitted.objects[0].path[:, 0]).tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_a_camera_is_asked_for_against_its_first_frame() -> None:
    move = CameraMove(np.array([0.0, 1.0]), np.array([[5.0, 0.0]] * 2), np.array([2.0, 4.0]), np.array([90.0, 90.0]))
    view = Asked(camera=move, fps=4, frames=5).fitted(5, (100, 50), None).view
    assert view is not None
    np.testing.assert_allclose([view.zoom[0], view.zoom[-1]], [1, 2])
    np.testing.assert_allclose(view.roll, 0, atol=1e-9)
    np.testing.assert_allclose(view.pan, 0, atol=1e-9)


def test_zo3t_arrays_span_the_video_and_take_their_size_from_the_picture_beside(tmp_path: Path) -> None:
    array = np.array([[[10, 20], [30, 40], [20, 30], [40, 30], [60, 30]]], np.float64)
    Image.new("RGB", (200, 100)).save(tmp_path / "img.png")
    fitted = load(tmp_path, npy(array), "traj.npy").fitted(5, (100, 100), 16.0)
    np.testing.assert_allclose(fitted.objects[0].path, [[10 + 5 * i, 30] for i in range(5)])
    assert fitted.objects[0].box == (5, 20, 15, 40)
    fitted = load(tmp_path, npy(array.astype(np.int32)), "traj.npy", size=(400, 100)).fitted(3, (100, 100), 16.0)
    np.testing.assert_allclose(fitted.objects[0].path[:, 0], [5, 10, 15])


def test_posetraj_paths_go_frame_by_frame(tmp_path: Path) -> None:
    asked = load(tmp_path, {"0": [[1, 2], [3, 4], [5, 6]], "15": [[0, 0]] * 3}, size=(50, 50))
    assert [one.name for one in asked.objects] == ["0", "15"]
    assert asked.pace is Pace.FRAME
    np.testing.assert_allclose(asked.fitted(2, (100, 50), 99.0).objects[0].path, [[2, 2], [6, 4]])
    longer = asked.fitted(5, (100, 50), None).objects[0].path
    assert np.isnan(longer[:, 0]).tolist() == [False] * 3 + [True] * 2


@pytest.mark.parametrize(("words", "way"), [("Circle Left->Right", -1), ("circles right to left", 1), ("a", None)])
def test_captions_ask_for_a_direction(words: str, way: int | None) -> None:
    assert caption_asks(words).direction == way


def test_poses_are_read_but_ask_for_no_view(tmp_path: Path) -> None:
    poses = [{"t": 0, "R": np.eye(3).tolist(), "T": [0, 0, 0]}, {"t": 1, "R": np.eye(3).tolist(), "T": [1, 0, 0]}]
    asked = load(tmp_path, motion(camera=poses, objects=None))
    assert isinstance(asked.camera, CameraPoses)
    assert asked.fitted(5, (100, 50), None).view is None


def test_every_mistake_is_said_at_once(tmp_path: Path) -> None:
    broken = motion(
        size=[100],
        fps="fast",
        frames=5.0,
        views_=1,
        objects=[
            {"id": "a", "points": [[0, 0], [1]], "box": [5, 5, 1, 9]},
            {"id": "a", "points": [[0, 0], [1, 1]], "visible": [1, 0], "depth": [0, 1]},
            7,
        ],
        camera=[{"t": 1, "zoom": 0}, {"t": 1, "pan": 3, "tilt": 2}],
    )
    found = "\n".join(problems(tmp_path, broken))
    for words in (
        "size: expected 2 numbers, found a list of 1",
        "fps: expected a number, found 'fast'",
        "frames: expected a whole number from 2 to 100000, found 5.0",
        "views_: unknown key",
        "objects[0].points: expected N×2 numbers, found a list of 2",
        "objects[0].box: expected [left, top, right, bottom]",
        "objects[1].id: 'a' is the id of another object too",
        "objects[1].visible: expected 2 times true or false",
        "objects[1].depth: expected 1e-06 to 1e+06",
        "objects[2]: expected an object",
        "camera[1].tilt: unknown key",
    ):
        assert words in found, words
    found = "\n".join(problems(tmp_path, motion(camera=[{"t": 1, "zoom": 0}, {"t": 1, "pan": 3}])))
    for words in ("camera[0].zoom: expected 0.01 to 100", "camera[1].pan: expected 2 numbers", "t to increase"):
        assert words in found, words
    mirror = [{"t": 0, "R": np.diag([1, 1, -1]).tolist(), "T": [0, 0, 0]}]
    assert "camera[0].R: expected a rotation" in problems(tmp_path, motion(camera=mirror))[0]
    assert "found both" in problems(tmp_path, motion(camera=[*mirror, {"t": 1, "zoom": 1}]))[0]


def test_points_must_be_as_many_as_frames(tmp_path: Path) -> None:
    assert "expected 6×2 numbers" in problems(tmp_path, motion(frames=6))[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"[1]", "found a list of 1"),
        (b"{}", "found an object of 0 keys"),
        (b'{"a": [[NaN, 1], [2, 3]]}', "NaN is not a JSON number"),
        (b'{"a": [[1e999, 1], [2, 3]]}', "expected N"),
        (b'{"a": [[1e9, 1], [2, 3]]}', "found numbers beyond"),
        (b'{"a": [[true, 1], [2, 3]]}', "expected N"),
        (b'{"a": [[1, 1]]}', "expected N"),
        (b'{"a": [[1, 1], [2, 2]], "a": [[3, 3], [4, 4]]}', "given twice"),
        (b'{"a": [[' + b"9" * 5000 + b", 1], [2, 3]]}", "JSON"),
        (b'{"a\\nb": 1}', "a\\nb"),
    ],
)
def test_hostile_json_is_refused_in_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    found = problems(tmp_path, content)
    assert len(found) == 1
    assert words in found[0]
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected a .npy"),
        (b"\x93NUMPY\x01\x00\xff\xff", "expected a .npy"),
        (npy(np.zeros((1, 5, 3))), "found float64 (1, 5, 3)"),
        (npy(np.zeros((1, 3, 2))), "F ≥ 2"),
        (npy(np.zeros((0, 5, 2))), "N ≥ 1"),
        (npy(np.array([["a", "b"]])), "expected numbers"),
        (npy(np.full((1, 5, 2), np.nan)), "finite pixels"),
        (npy(np.zeros((2, 5, 2))), "top left before bottom right"),
        (npy(np.zeros((1, 5, 2), complex)), "expected numbers"),
        (npy(np.zeros((1, 5, 2)))[:-8], "expected a .npy"),
        (npy(np.zeros((1, 5, 2))).replace(b"(1, 5, 2)", b"(9**9,5,2"), "expected a .npy"),
        (npy(np.zeros((1, 15, 2))).replace(b"(1, 15, 2)", b"(99999999,"), "expected a .npy"),
    ],
)
def test_hostile_arrays_are_refused_in_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in problems(tmp_path, content, "traj.npy")[0]


def test_an_array_that_promises_more_than_it_holds_is_not_allocated(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 5, 2)})
    assert "promised" in problems(tmp_path, header.getvalue(), "traj.npy")[0]


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    file = io.BytesIO()
    np.save(file, np.array([[[Trap(), 1]] * 5], object), allow_pickle=True)
    assert "Python objects" in problems(tmp_path, file.getvalue(), "traj.npy")[0]
    assert not (tmp_path / "sprung").exists()


def test_large_files_missing_files_and_many_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Asked.load(tmp_path / "nothing.json")
    assert "at most 16 MiB" in problems(tmp_path, b" " * ((16 << 20) + 1))[0]
    found = problems(tmp_path, {str(i): 1 for i in range(2000)})
    assert len(found) == 51
    assert found[-1].endswith("1950 more mistakes")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
keys = ("size", "fps", "frames", "objects", "camera", "views", "x")
camera_keys = st.dictionaries(st.sampled_from(["t", "pan", "zoom", "roll", "R", "T"]), json_values)
object_keys = st.dictionaries(st.sampled_from(["id", "box", "points", "depth", "visible"]), json_values)
documents = json_values | st.dictionaries(
    st.sampled_from(keys), json_values | st.lists(camera_keys, max_size=3) | st.lists(object_keys, max_size=3)
)


@settings(deadline=None, max_examples=200)
@given(documents, st.dictionaries(st.sampled_from(keys), json_values, max_size=2))
def test_any_document_is_a_request_or_a_user_error(document: Any, changes: dict[str, Any]) -> None:
    for value in (document, motion(**changes)):
        try:
            asked = read_document(Path("asked.json"), value, None)
        except UserError:
            continue
        for one in asked.fitted(4, (8, 8), 5.0).objects:
            assert not np.isinf(one.path).any()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.integers(2, 40), st.sampled_from(list(Pace)), st.none() | st.floats(1, 60), st.booleans())
def test_fitted_paths_stay_between_what_was_asked(
    count: int, points: int, pace: Pace, fps: float | None, rated: bool
) -> None:
    path = np.random.default_rng(points).uniform(0, 10, (points, 2))
    asked = Asked((AskedObject("a", path),), fps=24.0 if rated else None, frames=points, pace=pace)
    fitted = asked.fitted(count, (16, 8), fps).objects[0].path
    assert fitted.shape == (count, 2)
    np.testing.assert_allclose(fitted[0], path[0])
    known = fitted[~np.isnan(fitted[:, 0])]
    assert (known >= path.min(axis=0) - 1e-9).all()
    assert (known <= path.max(axis=0) + 1e-9).all()
