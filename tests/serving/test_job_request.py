"""What comes over the wire: accepted whole, or refused with every mistake; and the same again from the job's folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from musubi_ext.errors import UserError
from serving.config import Limits
from serving.making.fields import NUMBERS, TEXTS
from serving.making.request import JobRequest, check_cost


def png(seed: int = 1, side: int = 48, form: str = "PNG") -> bytes:
    """Noise as a picture file: every seed another one."""
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, form)
    return data.getvalue()


def parse(fields: dict[str, Any], files: dict[str, bytes] | None = None, limits: Limits | None = None) -> JobRequest:
    sent = {"first_frame": png()} if files is None else files
    return JobRequest.parse({"prompt": "a car"} | fields, sent, limits)


def mistakes(fields: dict[str, Any], files: dict[str, bytes] | None = None, limits: Limits | None = None) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse(fields, files, limits)
    return list(caught.value.problems)


def test_form_texts_and_json_values_mean_the_same() -> None:
    text = {"size": "64x32", "num_frames": "9", "fps": "12.5", "seed": "3", "guidance_scale": "2", "best_of": "2"}
    plain = {"width": 64, "height": 32, "num_frames": 9, "fps": 12.5, "seed": 3, "guidance_scale": 2.0, "best_of": 2}
    assert parse(text) == parse(plain)
    assert parse(text).size == (64, 32)


def test_names_of_others_are_understood() -> None:
    theirs = parse({"lora": '{"name": "orbit@champion", "scale": 0.5}', "seed": 1}, {"input_reference": png()})
    ours = parse({"pair": "orbit@champion", "strength_high": 0.5, "strength_low": 0.5, "seed": 1})
    assert theirs.record() == ours.record()
    assert parse({"lora": "orbit/3"}).pair == "orbit/3"


def test_all_mistakes_at_once() -> None:
    found = mistakes(
        {
            "prompt": " ", "size": "big", "num_frames": "9.5", "fps": "nan", "seed": -1, "guidance_scale": "1e999",
            "pair": "../../etc", "rank_by": "no\nsuch", "promt": "x", "first_frame": "http://169.254.169.254/",
            "boundary_ratio": "1", "seconds": "4", "model": "a b", "lora": "{", "best_of": True,
        },
        {"last_frame": b"<svg/>", "mask": b""},
    )  # fmt: skip
    keys = [line.split(":")[0] for line in found]
    assert set(keys) == {
        "prompt", "size", "num_frames", "fps", "seed", "guidance_scale", "pair", "rank_by", "'promt'", "first_frame",
        "boundary_ratio", "model", "lora", "best_of", "last_frame", "'mask'",
    }  # fmt: skip
    assert "'promt': no such field (did you mean prompt?)" in found
    assert any("no paths and no addresses" in line for line in found)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_frames": 9, "seconds": 1}, "give one of them"),
        ({"size": "32x32", "width": 32, "height": 32}, "give one of them"),
        ({"width": 32}, "without the other"),
        ({"lora": "a/1", "pair": "b/1"}, "another name of pair"),
        ({"prompt": "x" * 3000}, "3,000 characters, at most 2,000"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"size": "4096x4096"}, "more than"),
        ({"best_of": 9}, "more than the 8"),
        ({"rank_by": "motion_magnitude"}, "neither way is better"),
    ],
)
def test_contradictions_and_limits(fields: dict[str, Any], said: str) -> None:
    assert any(said in line for line in mistakes(fields))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a readable"),
        (b"GIF89a" + bytes(100), "not a readable"),
        (png()[:200], "not a readable"),
        (png(form="BMP"), "not a readable"),
        (png(side=8), "too small"),
    ],
)
def test_pictures_that_are_none(data: bytes, said: str) -> None:
    assert said in mistakes({}, {"first_frame": data})[0]


def test_size_of_a_picture_is_known_before_it_is_decoded() -> None:
    assert "more than 1,000 pixels" in mistakes({}, limits=Limits(image_pixels=1000))[0]
    assert "bytes, at most 100" in mistakes({}, limits=Limits(upload_bytes=100))[0]
    assert mistakes({}, {})[0].startswith("first_frame: is missing")


def test_what_is_left_open_is_settled_by_the_version() -> None:
    defaults = {"size": (32, 32), "frames": 5, "fps": 8.0, "steps": 4, "shift": 5.0, "guidance": 1.0, "guidance_2": 1.0}
    assert parse({}).generation(defaults).frames == 5
    settled = parse({"seconds": "2", "guidance_scale": 3}).generation(defaults)
    assert (settled.frames, settled.guidance, settled.guidance_2) == (17, 3.0, 3.0)
    with pytest.raises(UserError, match="divide by 16"):
        parse({"size": "33x32"}).generation(defaults)
    with pytest.raises(UserError, match="frames"):
        check_cost(parse({"seconds": "40"}).generation(defaults), 1, Limits())


def test_job_comes_back_from_its_folder_and_a_changed_picture_does_not(tmp_path: Path) -> None:
    job = parse({"seed": 5, "size": "64x48"}, {"first_frame": png(1), "last_frame": png(2, form="WEBP")})
    job.save(tmp_path)
    back = JobRequest.load(tmp_path)
    assert back.record() == job.record()
    assert np.array_equal(np.asarray(back.first_frame), np.asarray(job.first_frame))
    Image.open(io.BytesIO(png(9))).save(tmp_path / "last_frame.bmp")
    with pytest.raises(UserError, match="not the one that was accepted"):
        JobRequest.load(tmp_path)
    (tmp_path / "request.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        JobRequest.load(tmp_path)


def test_seed_is_drawn_when_none_is_given() -> None:
    assert len({parse({}).seed for _ in range(5)}) > 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from([*NUMBERS, *TEXTS, "x"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
        | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        max_size=6,
    ),
    st.dictionaries(st.sampled_from(["first_frame", "last_frame", "input_reference", "y"]), st.binary(max_size=64)),
)  # fmt: skip
def test_nothing_but_a_request_or_its_mistakes_comes_out(fields: dict[str, Any], files: dict[str, bytes]) -> None:
    problems: tuple[str, ...] = ("none",)
    try:
        JobRequest.parse(fields, files)
    except UserError as error:
        problems = error.problems
    assert problems
    assert not any("Traceback" in line or "\n" in line for line in problems)
