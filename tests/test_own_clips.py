"""The README's "your own clips", on two real clips and on the shipped pocket model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from musubi_ext.cli import main
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Truth
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.orbits.render import write_dataset
from musubi_ext.registry.model import load_pair
from musubi_ext.video import read_comment, read_video

pytestmark = [
    # mlflow 3.17 calls a function of its own that alembic has renamed, and looks for a distribution of this checkout
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

_DATASET = """
[general]
resolution = [64, 64]
enable_bucket = true
caption_extension = ".txt"
batch_size = 1
[[datasets]]
video_directory = "clips"
cache_directory = "cache"
target_frames = [17]
frame_extraction = "head"
[orbit]
condition = "first"
holdout = 0.3
"""


def test_two_real_clips_become_a_registered_pair_and_a_video(
    sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "clips").mkdir()
    for name in ("cat", "demo2"):
        for suffix in (".mp4", ".txt"):
            shutil.copy(sample_data / "train" / f"{name}{suffix}", tmp_path / "clips")
    (tmp_path / "my_clips.toml").write_text(_DATASET)
    train = "train --task pocket-i2v --dataset_config my_clips.toml --network_dim 4 --max_train_steps 12 --no_mlflow"
    assert main([*train.split(), "--output_dir", "out", "--output_name", "real"]) == 0
    assert main(["registry", "register", "out", "--name", "real", "--candidate"]) == 0
    assert load_pair("models:/real@candidate").manifest["name"] == "real"
    generate = "generate --pair models:/real@candidate --steps 2 --size 64x64 --frames 5 -o made.mp4 --strip made.png"
    prompt = "eye level, camera circles right to left, an orange kitten"
    assert main([*generate.split(), "--first", str(sample_data / "first.png"), "--prompt", prompt]) == 0
    frames, _ = read_video(tmp_path / "made.mp4")
    assert frames.shape == (5, 64, 64, 3)
    assert read_comment(tmp_path / "made.mp4")["request"]["prompt"] == prompt
    assert (tmp_path / "made.png").stat().st_size > 1000


def test_the_shipped_base_turns_as_the_caption_says_and_keeps_a_last_frame(tmp_path: Path) -> None:
    rotate = CircleRotate("pocket-i2v")
    for video in write_dataset(tmp_path, 2, seed=900_000, with_sweep=True):
        truth, caption = Truth.load(video.with_suffix(".npz")), video.with_suffix(".txt").read_text().strip()
        made = rotate(truth.frames[0], caption, seed=1, steps=8, size=(64, 64), frames=17).frames
        results = evaluate(made, truth=truth, metrics=["direction_subject_correct", "motion_ratio"])
        assert results["direction_subject_correct"].value == 1
        assert 0.7 < (results["motion_ratio"].value or 0) < 1.3
        both = rotate(truth.frames[0], caption, last=truth.frames[-1], seed=1, steps=8, size=(64, 64), frames=17).frames
        free, given = (np.abs(clip[-1].astype(int) - truth.frames[-1]).mean() for clip in (made, both))
        assert given < free
