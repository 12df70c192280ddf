"""A small cached data set that both trainers read, and command lines that train on it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from musubi_ext.orbits.cache.files import read_metadata
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.pocket.upstream import TEXT_WIDTH, widen
from musubi_ext.video import write_mp4

TOML = """
[general]
resolution = [32, 32]
caption_extension = ".txt"
batch_size = {batch}
[[datasets]]
video_directory = "{clips}"
cache_directory = "{cache}"
target_frames = [5]
"""
ORBIT = """
[orbit]
holdout = 0.2
"""
CLIPS = 6


def make_data(folder: Path, pipeline: Path) -> Path:
    """Six cached clips of five frames in `folder`: `orbit.toml` for us, `plain.toml` for upstream, texts 4096 wide."""
    (folder / "clips").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for index in range(CLIPS):
        still = torch.randint(0, 256, (1, 8, 8, 3), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
        frames = torch.cat([still.roll(4 * frame, 2) for frame in range(5)])
        write_mp4(folder / "clips" / f"clip_{index}.mp4", frames.to(torch.uint8).numpy(), 16)
        (folder / "clips" / f"clip_{index}.txt").write_text(f"camera circles right to left, car number {index}")
    text = TOML.format(clips=folder / "clips", cache=folder / "cache", batch=1)
    (folder / "orbit.toml").write_text(text + ORBIT)
    (folder / "plain.toml").write_text(text.replace(str(folder / "cache"), str(folder / "wide")))
    cache_dataset(load_dataset_config(folder / "orbit.toml"), pipeline, progress=False)
    _widen(folder / "cache", folder / "wide")
    return folder


def _widen(narrow: Path, wide: Path) -> None:
    """The same caches with texts as wide as upstream's model wants them."""
    wide.mkdir()
    for path in narrow.iterdir():
        tensors = {key: widen(value, TEXT_WIDTH) if "t5" in key else value for key, value in load_file(path).items()}
        save_file(tensors, wide / path.name, metadata=read_metadata(path))


def train_words(folder: Path, pipeline: Path, out: Path, *words: str) -> list[str]:
    """A command line of ours that trains the pocket experts inside musubi-tuner, further words appended."""
    return [
        *("--host", "musubi", "--task", "pocket-i2v", "--dit", str(pipeline), "--vae", str(pipeline)),
        *("--dataset_config", str(folder / "orbit.toml"), "--output_dir", str(out), "--output_name", "orbit"),
        *("--sdpa", "--mixed_precision", "no", "--optimizer_type", "adamw", "--learning_rate", "2e-3"),
        *("--network_module", "networks.lora_wan", "--network_dim", "4", "--timestep_sampling", "shift"),
        *("--discrete_flow_shift", "5", "--max_data_loader_n_workers", "0", "--no_mlflow", *words),
    ]
