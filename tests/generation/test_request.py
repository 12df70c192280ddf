"""A request is checked whole, and says everything that is wrong with it at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musubi_ext.errors import UserError
from musubi_ext.generation.presets import PRESETS, manifest_settings, preset
from musubi_ext.generation.request import GenerationRequest, nearest_frames, nearest_side

FRAME = np.zeros((64, 64, 3), np.uint8)


def refused(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        GenerationRequest(**({"prompt": "a car", "first": FRAME} | changes))
    return caught.value.problems


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": "x" * 10_000}, "prompt: 10,000 characters, at most 2,000"),
        ({"prompt": "  "}, "prompt: is empty"),
        ({"prompt": None}, "prompt: expected text"),
        ({"size": (100, 64)}, "size: 100x64 does not divide by 16 (the nearest that does is 96x64)"),
        ({"size": (0, 64)}, "the nearest that does is 16x64"),
        ({"size": "64x"}, "size: expected width and height in pixels, found '64x'"),
        ({"size": (64.0, 64)}, "size: expected width and height"),
        ({"frames": 16}, "frames: expected 4n+1, found 16 (the nearest is 17)"),
        ({"frames": 0}, "the nearest is 1"),
        ({"frames": 17.0}, "frames: expected 4n+1, found 17.0"),
        ({"frames": 1, "last": FRAME}, "at least 5 frames"),
        ({"frames": 4097, "size": (1024, 1024)}, "size and frames: 4097 x 1024 x 1024 is more than 134,217,728 pixels"),
        ({"steps": 0}, "steps: expected a whole number from 1 to 1000, found 0"),
        ({"steps": True}, "steps: expected a whole number"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"strength_high": 2.5}, "strength_high: expected 0 to 2, found 2.5"),
        ({"strength_low": -0.1}, "strength_low: expected 0 to 2"),
        ({"fps": 0}, "fps: expected 1 to 120, found 0"),
        ({"shift": float("nan")}, "shift: expected 0.1 to 100, found nan"),
        ({"shift": "5"}, "shift: expected 0.1 to 100, found '5'"),
        ({"guidance": 0.5}, "guidance: expected 1 to 30"),
        ({"guidance_2": 3.0}, "guidance_2: 3 has no effect at guidance 1"),
        ({"negative_prompt": "blur"}, "negative_prompt: has no effect at guidance 1"),
        ({"first": "missing.png"}, "first missing.png: no such file"),
    ],
)
def test_one_mistake_is_one_message(changes: dict[str, Any], expected: str) -> None:
    problems = refused(**changes)
    assert len(problems) == 1
    assert expected in problems[0]


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    problems = refused(
        prompt="x" * 10_000,
        first=tmp_path / "a.png",
        last=tmp_path / "b.png",
        size=(65, 64),
        frames=18,
        steps=0,
        seed=-1,
    )
    fields = ("prompt", "size", "frames", "steps", "seed", f"first {tmp_path}/a.png", f"last {tmp_path}/b.png")
    assert [text.split(":")[0] for text in problems] == list(fields)


def test_pictures_are_brought_to_the_size(picture: Path) -> None:
    request = GenerationRequest("a car", picture, picture, size=(32, 48), frames=5)
    assert request.first_frame.size == (32, 48)
    assert request.last_frame is not None
    assert request.last_frame.size == (32, 48)


def test_the_record_is_json_without_paths(picture: Path) -> None:
    record = GenerationRequest("a car", picture).record()
    text = json.dumps(record, allow_nan=False)
    assert str(picture.parent) not in text
    assert record["first"]["name"] == "first.png"
    assert record["last"] is None
    assert record["size"] == [64, 64]


@given(st.integers(-50, 10_000))
def test_the_nearest_frame_count_is_the_nearest(frames: int) -> None:
    found = nearest_frames(frames)
    assert found % 4 == 1
    assert found >= 1
    assert frames < 1 or abs(found - frames) <= 2


@given(st.integers(-50, 10_000))
def test_the_nearest_side_is_the_nearest(side: int) -> None:
    found = nearest_side(side)
    assert found % 16 == 0
    assert found >= 16
    assert side < 16 or abs(found - side) <= 8


@pytest.mark.parametrize("task", PRESETS)
def test_every_preset_is_a_valid_request(task: str) -> None:
    assert GenerationRequest("a car", FRAME, **preset(task)).size == PRESETS[task]["size"]


def test_manifest_settings_speak_for_both_experts() -> None:
    inference = {"shift": 8.0, "steps": 4, "cfg": 1.6, "strength": 0.8, "frames": 81, "fps": 16, "size": None}
    assert manifest_settings(inference) == {
        "shift": 8.0, "steps": 4, "guidance": 1.6, "guidance_2": 1.6,
        "strength_high": 0.8, "strength_low": 0.8, "frames": 81, "fps": 16,
    }  # fmt: skip


def test_a_task_without_a_first_frame_has_no_preset() -> None:
    with pytest.raises(UserError, match="t2v-A14B"):
        preset("t2v-A14B")
