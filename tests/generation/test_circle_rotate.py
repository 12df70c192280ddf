"""Circle-Rotate on a tiny real pipeline: deterministic, conditioned, and honest about what made a video."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from musubi_ext import CircleRotate
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.generation.video import Video
from musubi_ext.storage import sha256
from musubi_ext.video import read_comment, read_video

PROMPT = "a red car, camera circles right to left"
SMALL: dict[str, Any] = {
    "size": (32, 32), "frames": 5, "steps": 4, "fps": 8.0, "shift": 5.0, "guidance": 1.0, "guidance_2": 1.0
}  # fmt: skip


@pytest.fixture(scope="module")
def rotate(base: Path) -> CircleRotate:
    return CircleRotate(base)


@pytest.fixture(scope="module")
def paired(base: Path, pair: AdapterPair) -> CircleRotate:
    return CircleRotate(base, pair)


def make(rotate: CircleRotate, first: Any, **settings: Any) -> Video:
    return rotate(first, PROMPT, **(SMALL | settings))


def test_the_same_seed_is_the_same_video_to_the_bit(
    base: Path, rotate: CircleRotate, picture: Path, tmp_path: Path
) -> None:
    videos = [make(rotate, picture, seed=3), make(rotate, picture, seed=3), make(CircleRotate(base), picture, seed=3)]
    files = {sha256(video.save(tmp_path / f"{i}.mp4")) for i, video in enumerate(videos)}
    assert len({video.frames.tobytes() for video in videos}) == 1
    assert len(files) == 1
    assert not np.array_equal(make(rotate, picture, seed=4).frames, videos[0].frames)


def test_frames_are_what_was_asked_for(rotate: CircleRotate, picture: Path) -> None:
    video = make(rotate, picture, size=(48, 32), frames=9, fps=12)
    assert (video.frames.dtype, video.frames.shape, video.fps) == (np.uint8, (9, 32, 48, 3), 12)


@pytest.mark.parametrize(
    "setting",
    [{"last": np.full((32, 32, 3), 200, np.uint8)}, {"shift": 2.0}, {"guidance": 3.0}, {"steps": 5}],
    ids=lambda setting: next(iter(setting)),
)
def test_every_setting_reaches_the_picture(rotate: CircleRotate, picture: Path, setting: dict[str, Any]) -> None:
    assert not np.array_equal(make(rotate, picture, **setting).frames, make(rotate, picture).frames)


def test_guidance_is_the_high_experts_and_guidance_2_the_low_ones(rotate: CircleRotate, picture: Path) -> None:
    only_high = {"steps": 1, "guidance": 4.0}  # one step is the high-noise expert's
    a, b = (make(rotate, picture, **only_high, guidance_2=scale) for scale in (1.0, 9.0))
    assert np.array_equal(a.frames, b.frames)
    c, d = (make(rotate, picture, guidance=4.0, guidance_2=scale) for scale in (1.0, 9.0))
    assert not np.array_equal(c.frames, d.frames)


def test_a_picture_and_its_file_are_the_same_first_frame(rotate: CircleRotate, picture: Path) -> None:
    with Image.open(picture) as image:
        in_memory = np.asarray(image)
    assert np.array_equal(make(rotate, picture).frames, make(rotate, in_memory).frames)


def test_the_file_says_what_made_it(paired: CircleRotate, pair: AdapterPair, picture: Path, tmp_path: Path) -> None:
    video = make(paired, picture, seed=5)
    comment = read_comment(video.save(tmp_path / "a.mp4"))
    assert comment == json.loads(json.dumps({"request": video.request, "versions": video.versions}))
    assert comment["request"]["seed"] == 5
    assert comment["request"]["prompt"] == PROMPT
    assert comment["versions"]["pair"]["name"] == pair.manifest["name"]
    assert len(comment["versions"]["pair"]["sha256_high"]) == 64
    assert str(tmp_path) not in json.dumps(comment)
    assert read_video(tmp_path / "a.mp4")[0].shape == (5, 32, 32, 3)


def test_strengths_of_zero_are_the_base_to_the_bit(rotate: CircleRotate, paired: CircleRotate, picture: Path) -> None:
    plain = make(rotate, picture).frames
    assert np.array_equal(make(paired, picture, strength_high=0.0, strength_low=0.0).frames, plain)
    assert not np.array_equal(make(paired, picture).frames, plain)


def test_each_strength_is_its_own_experts(paired: CircleRotate, picture: Path) -> None:
    one_step = [make(paired, picture, steps=1, strength_low=low).frames for low in (0.0, 2.0)]
    assert np.array_equal(*one_step)  # the low expert never ran
    strengths = ((0, 0), (1, 0), (0, 1), (1, 1))
    videos = [make(paired, picture, strength_high=high, strength_low=low).frames for high, low in strengths]
    assert len({video.tobytes() for video in videos}) == 4


def test_strengths_do_not_stick(paired: CircleRotate, picture: Path) -> None:
    before = make(paired, picture).frames
    make(paired, picture, strength_high=0.25, strength_low=2.0)
    assert np.array_equal(make(paired, picture).frames, before)


def test_a_pair_is_taken_out_without_a_trace(
    base: Path, rotate: CircleRotate, pair: AdapterPair, picture: Path
) -> None:
    other = CircleRotate(base, pair)
    with_pair = make(other, picture).frames
    other.use(None)
    assert np.array_equal(make(other, picture).frames, make(rotate, picture).frames)
    other.use(pair)
    assert np.array_equal(make(other, picture).frames, with_pair)


def test_a_pairs_settings_are_the_defaults(paired: CircleRotate, pair: AdapterPair, picture: Path) -> None:
    request = paired.request(picture, PROMPT)
    inference = pair.manifest["inference"]
    assert (request.steps, request.shift, request.strength_high) == (inference["steps"], inference["shift"], 0.8)
    assert paired.request(picture, PROMPT, steps=9).steps == 9


def test_progress_counts_steps_and_may_stop_the_video(rotate: CircleRotate, picture: Path) -> None:
    seen: list[tuple[int, int]] = []
    before = make(rotate, picture, progress=lambda done, steps: seen.append((done, steps))).frames
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done: int, _steps: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(rotate, picture, progress=stop)
    assert np.array_equal(make(rotate, picture).frames, before)


def test_a_prompt_longer_than_the_encoder_reads_is_said(rotate: CircleRotate, picture: Path) -> None:
    long = rotate(picture, "a red car " * 30, **SMALL)
    assert long.notes == ("prompt: 91 tokens, of which the text encoder reads the first 24",)
    assert make(rotate, picture).notes == ()


def test_threads_wait_for_one_another(rotate: CircleRotate, picture: Path) -> None:
    alone = [make(rotate, picture, seed=seed).frames for seed in range(3)]
    together: dict[int, Any] = {}

    def work(seed: int) -> None:
        together[seed] = make(rotate, picture, seed=seed).frames

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(together[seed], alone[seed]) for seed in range(3))


def test_registry_addresses_are_the_callers(base: Path) -> None:
    with pytest.raises(UserError, match="load it first"):
        CircleRotate(base, "models:/pocket@champion")


def test_unknown_settings_are_a_programming_error(rotate: CircleRotate, picture: Path) -> None:
    with pytest.raises(TypeError, match="stepz"):
        rotate(picture, PROMPT, stepz=3)
