"""The default data set: clean orbits rendered for the pocket model, and the TOML that says how they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from musubi_ext.storage import write_text

CLIP_SEED = 100_000  # clip i is scene 100,000 + i of the training subjects
CHUNK = 2  # clips a job: directions alternate from the first clip of a call on, so chunks are even
Spread = Callable[[Callable[[Any], Any], Sequence[Any]], Any]  # runs a function on jobs, wherever

# dataset_toml/pocket.toml, whose comments explain each line, with other folders
_DATASET = """\
[general]
resolution = [64, 64]
enable_bucket = false
caption_extension = ".txt"
batch_size = 8
num_repeats = 1

[[datasets]]
video_directory = {clips}
cache_directory = {cache}
target_frames = [17]
frame_extraction = "head"

[orbit]
condition = "first"
holdout = 0.1
mirror = false
"""


def write_dataset_config(path: Path, clips: Path, cache: Path) -> None:
    """The data set's TOML, with absolute folders: it may be read from another working directory."""
    folders = {name: json.dumps(folder.absolute().as_posix()) for name, folder in (("clips", clips), ("cache", cache))}
    write_text(path, _DATASET.format(**folders))


def render_clips(folder: Path, count: int, spread: Spread) -> None:
    """`count` training clips; those that an interrupted call left are kept."""
    spread(partial(_render, folder), chunks(count))


def chunks(count: int) -> list[tuple[int, int]]:
    """First clip and number of clips of each job."""
    return [(start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)]


def _render(folder: Path, job: tuple[int, int]) -> None:
    from musubi_ext.orbits.render import write_dataset

    start, count = job
    write_dataset(folder, count, domain="orbit", seed=CLIP_SEED + start, family="train")
