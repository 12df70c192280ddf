"""Previews inside musubi-tuner: both experts, natively, and the training stays the same to the last bit."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from host_data import make_data, train_words
from PIL import Image

from musubi_ext.adapters.files import read_lora
from musubi_ext.video import read_video
from musubi_ext.wan_train_network import main


@pytest.fixture(scope="module")
def data(host: ModuleType, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "set", tiny_pipeline)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "first.png")
    file = tmp_path / "prompts.txt"
    shape = f"--w 32 --h 32 --f 5 --s 4 --fs 3 --i {tmp_path / 'first.png'}"
    file.write_text(f"camera circles right to left --d 1 {shape}\n")
    return file


def test_a_run_with_previews_is_one_without(data: Path, tiny_pipeline: Path, prompts: Path, tmp_path: Path) -> None:
    length = ("--max_train_epochs", "2")
    assert main(train_words(data, tiny_pipeline, tmp_path / "without", *length)) == 0
    shown = ("--sample_prompts", str(prompts), "--preview_every_n_epochs", "1", "--sample_every_n_epochs", "1")
    assert main(train_words(data, tiny_pipeline, tmp_path / "with", *length, *shown)) == 0
    for name in ("orbit_h.safetensors", "orbit_l.safetensors"):
        ours, theirs = (read_lora(tmp_path / folder / name).tensors for folder in ("with", "without"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    folder = tmp_path / "with" / "previews"
    stems = [f"orbit_{expert}-{epoch:06d}_00" for expert in "hl" for epoch in (1, 2)] + ["orbit_00"]
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}{suffix}" for stem in stems for suffix in (".mp4", ".png")
    }
    frames, fps = read_video(folder / "orbit_00.mp4")
    assert (frames.shape, fps) == ((5, 32, 32, 3), 8)
    # The last preview of the low phase is of the finished pair: live or from files, the same video.
    assert (frames == read_video(folder / "orbit_l-000002_00.mp4")[0]).all()
    assert len(list((tmp_path / "with" / "sample").glob("*.mp4"))) == 4  # upstream's own, of one expert each
