"""Small data sets to cache: a folder of clips, or a JSONL list of clips in several folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from musubi_ext.orbits.cache.models import ModelFiles
from musubi_ext.orbits.cache.summary import CacheSummary
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.video import write_mp4

TOML = """
[general]
resolution = [{side}, {side}]
caption_extension = ".txt"
[[datasets]]
{source}
cache_directory = "{folder}/cache"
target_frames = [5]
{more}
"""


def write_clip(path: Path, seed: int, frames: int = 5, side: int = 32) -> Path:
    """Noise of `frames` frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8), 16)
    return path


def data(folder: Path, count: int = 5, side: int = 32, more: str = "") -> Path:
    """The TOML of `count` clips in `folder`/clips, cached in `folder`/cache; `more` are further lines."""
    for index in range(count):
        clip = write_clip(folder / "clips" / f"clip_{index}.mp4", index, side=side)
        clip.with_suffix(".txt").write_text(f"camera circles right to left, car {index}")
    source = f'video_directory = "{folder}/clips"'
    (folder / "data.toml").write_text(TOML.format(folder=folder, side=side, source=source, more=more))
    return folder / "data.toml"


def listed(folder: Path, clips: Mapping[str, str], more: str = "") -> Path:
    """The TOML of a JSONL list: captions by path below `folder`, clips written where there are none."""
    for seed, name in enumerate(clips):
        if not (folder / name).exists():
            write_clip(folder / name, seed)
    lines = [json.dumps({"video_path": str(folder / name), "caption": caption}) for name, caption in clips.items()]
    (folder / "list.jsonl").write_text("\n".join(lines))
    source = f'video_jsonl_file = "{folder}/list.jsonl"'
    (folder / "data.toml").write_text(TOML.format(folder=folder, side=32, source=source, more=more))
    return folder / "data.toml"


def run(toml: Path, pipeline: Path, **options: bool) -> CacheSummary:
    """Cache with a diffusers folder's models."""
    return cache_dataset(load_dataset_config(toml), ModelFiles(base=pipeline), progress=False, **options)


def stamps(toml: Path) -> dict[str, int]:
    """Modification times of what lies in the cache folder."""
    return {path.name: path.stat().st_mtime_ns for path in sorted((toml.parent / "cache").iterdir())}
