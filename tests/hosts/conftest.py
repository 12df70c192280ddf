"""One small cached data set for all tests of the hosts, and the words and jobs that train on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from musubi_ext.hosts.arguments import parse
from musubi_ext.hosts.resolve import Job, resolve
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
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


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Path:
    """A folder with five cached clips of five frames, one of them held out, and `data.toml`."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "clips").mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(5):
        still = torch.randint(0, 256, (1, 8, 8, 3), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
        frames = torch.cat([still.roll(4 * frame, 2) for frame in range(5)])
        write_mp4(folder / "clips" / f"clip_{index}.mp4", frames.to(torch.uint8).numpy(), 16)
        (folder / "clips" / f"clip_{index}.txt").write_text("camera circles right to left, a red car")
    config = folder / "data.toml"
    config.write_text(TOML.format(clips=folder / "clips", cache=folder / "cache"))
    cache_dataset(load_dataset_config(config), tiny_pipeline, progress=False)
    return folder


@pytest.fixture(scope="session")
def words_of(workshop: Path, tiny_pipeline: Path) -> Callable[..., list[str]]:
    """The command line of three updates into a folder; further words are appended."""

    def build(out: Path, *words: str) -> list[str]:
        return [
            *("--dataset_config", str(workshop / "data.toml"), "--dit", str(tiny_pipeline)),
            *("--output_dir", str(out), "--output_name", "orbit", "--network_dim", "4"),
            *("--max_train_steps", "3", "--no_mlflow", *words),
        ]

    return build


@pytest.fixture
def argv(words_of: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """`words_of` into `tmp_path / "out"`."""
    return lambda *words: words_of(tmp_path / "out", *words)


@pytest.fixture
def job(argv: Callable[..., list[str]]) -> Callable[..., Job]:
    """The job of the high expert for some further words."""

    def build(*words: str) -> Job:
        return resolve(parse(argv("--experts", "high", *words))).jobs[0]

    return build
