"""Previews come from both experts as they stand, are kept with the run, and change no bit of the training."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musubi_ext.video import read_video
from musubi_ext.wan_train_network import main

Arguments = Callable[..., list[str]]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Two prompts on one picture, the second with a last picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for name, image in zip(("first", "last"), pixels, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    shape = f"--w 32 --h 32 --f 5 --s 4 --fs 3 --i {tmp_path / 'first.png'}"
    file = tmp_path / "prompts.txt"
    file.write_text(
        f"camera circles right to left, a red car --d 1 {shape}\n"
        f"camera circles left to right, a red car --d 2 {shape} --ei {tmp_path / 'last.png'}\n"
    )
    return file


def test_a_run_with_previews_is_one_without(
    words_of: Arguments, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert main(words_of(tmp_path / "without", "--max_train_steps", "4")) == 0
    shown = ("--sample_prompts", str(prompts), "--preview_every_n_epochs", "2")
    words = words_of(tmp_path / "with", "--max_train_steps", "4", *shown)
    assert main([word for word in words if word != "--no_mlflow"]) == 0
    for name in ("orbit_h", "orbit_l"):
        adapter = f"{name}.safetensors"
        assert (tmp_path / "with" / adapter).read_bytes() == (tmp_path / "without" / adapter).read_bytes()

    folder = tmp_path / "with" / "previews"
    stems = [f"orbit_{expert}-{epoch:06d}" for expert in "hl" for epoch in (2, 4)] + ["orbit"]
    made = {f"{stem}_{index:02d}{suffix}" for stem in stems for index in (0, 1) for suffix in (".mp4", ".png")}
    assert {path.name for path in folder.iterdir()} == made
    first, _ = read_video(folder / "orbit_00.mp4")
    assert first.shape == (5, 32, 32, 3)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("musubi-ext")
    (pair,) = [run for run in client.search_runs([experiment.experiment_id]) if "expert" not in run.data.tags]
    kept = {item.path for item in client.list_artifacts(pair.info.run_id, "previews/orbit")}
    assert kept == {f"previews/orbit/orbit_{index:02d}{suffix}" for index in (0, 1) for suffix in (".mp4", ".png")}


def test_previews_follow_the_adapters(words_of: Arguments, prompts: Path, tmp_path: Path) -> None:
    shown = ("--sample_prompts", str(prompts), "--preview_every_n_epochs", "1", "--learning_rate", "0.1")
    assert main(words_of(tmp_path / "out", "--max_train_steps", "2", *shown)) == 0
    folder = tmp_path / "out" / "previews"
    videos = [
        read_video(folder / f"{stem}_00.mp4")[0]
        for stem in ("orbit_h-000001", "orbit_h-000002", "orbit_l-000001", "orbit")
    ]
    assert all((a != b).any() for a, b in pairwise(videos))


def test_previews_need_prompts(words_of: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_of(tmp_path / "out", "--preview_every_n_epochs", "1")) == 2
    assert "--preview_every_n_epochs: needs prompts" in capsys.readouterr().err
