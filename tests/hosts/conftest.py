"""One rendered, cached data set and one random pocket pipeline for all tests of the hosts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from musubi_ext.hosts.arguments import parse
from musubi_ext.hosts.resolve import Job, resolve
from musubi_ext.orbits.cache import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.pocket.config import random_pipeline
from musubi_ext.video import write_mp4

TOML = """
[general]
resolution = [32, 32]
caption_extension = ".txt"
batch_size = 4
[[datasets]]
video_directory = "{clips}"
cache_directory = "{cache}"
target_frames = [5]
[orbit]
holdout = 0.2
"""
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pipeline/`, five cached clips (one held out) and `data.toml`."""
    folder = tmp_path_factory.mktemp("workshop")
    random_pipeline(folder / "pipeline")
    (folder / "clips").mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(5):
        still = torch.randint(0, 256, (1, 8, 8, 3), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
        frames = torch.cat([still.roll(4 * frame, 2) for frame in range(5)])
        write_mp4(folder / "clips" / f"clip_{index}.mp4", frames.to(torch.uint8).numpy(), 16)
        (folder / "clips" / f"clip_{index}.txt").write_text("camera circles right to left, a red car")
    config = folder / "data.toml"
    config.write_text(TOML.format(clips=folder / "clips", cache=folder / "cache"))
    cache_dataset(load_dataset_config(config), folder / "pipeline", progress=False)
    return folder


@pytest.fixture
def argv(workshop: Path, tmp_path: Path) -> Arguments:
    """A short training of the workshop's data into `tmp_path / "out"`; further words are appended."""

    def build(*words: str) -> list[str]:
        return [
            *("--dataset_config", str(workshop / "data.toml"), "--dit", str(workshop / "pipeline")),
            *("--output_dir", str(tmp_path / "out"), "--output_name", "orbit", "--network_dim", "4"),
            *("--max_train_steps", "3", "--no_mlflow", *words),
        ]

    return build


@pytest.fixture
def job(argv: Arguments) -> Callable[..., Job]:
    """The job of the high expert for some further words."""

    def build(*words: str) -> Job:
        return resolve(parse(argv("--experts", "high", *words))).jobs[0]

    return build
