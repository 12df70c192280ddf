"""A small data set to check, in two folders: clips that are fit, and one of each way a file can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from musubi_ext.orbits.checks.thresholds import Thresholds
from musubi_ext.orbits.config import DatasetConfig, load_dataset_config
from musubi_ext.video import Frames, write_mp4

# Clips here pan over pictures; whether the orbit is measured right is the business of the geometry's own tests.
NO_ORBIT = Thresholds(
    min_swept_angle=None, max_unsteadiness=None, max_centring=None, max_centring_spread=None, min_confidence=None
)
NO_ORBIT_TOML = "[checks]\n" + "".join(
    f"{key} = false\n"
    for key in ("min_swept_angle", "max_unsteadiness", "max_centring", "max_centring_spread", "min_confidence")
)
HOSTILE = '<img src=x onerror=alert(1)>&"\n\u202e.mp4'  # a file name that is markup, two lines, and written backwards


def panning(seed: int, frames: int = 17, size: int = 64) -> Frames:
    """uint8 (F, size, size, 3): a window moving over a random picture."""
    rng = np.random.default_rng(seed)
    small = rng.integers(20, 230, (20, 60, 3), np.uint8)
    wide = cv2.resize(small, (size * 3, size), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 2 * index : 2 * index + size] for index in range(frames)])


def write_clip(path: Path, seed: int, caption: str | None = "a cat", fps: float = 16, frames: int = 17) -> Path:
    """A clip and its caption (None: no caption)."""
    plain = path.with_name("plain.mp4")  # libav takes a name with a line break for a protocol
    write_mp4(plain, panning(seed, frames), fps)
    plain.rename(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def data_set(folder: Path, *directories: str) -> DatasetConfig:
    """The TOML of a data set over `directories`, read; clips need not exist yet."""
    tables = "".join(
        f'[[datasets]]\nvideo_directory = "{folder / name}"\ncache_directory = "{folder / name}.cache"\n'
        "target_frames = [17]\n"
        for name in directories
    )
    file = folder / "set.toml"
    file.write_text(f'[general]\nresolution = [64, 64]\ncaption_extension = ".txt"\n{tables}', encoding="utf-8")
    return load_dataset_config(file, check_files=False)


def faulty(folder: Path) -> DatasetConfig:
    """Two folders of clips: see `EXPECTED` for what is to be found."""
    first, second = folder / "first", folder / "second"
    first.mkdir(parents=True)
    second.mkdir()
    write_clip(first / "fit.mp4", 1)
    write_clip(first / "fast.mp4", 2, fps=30)
    write_clip(first / "short.mp4", 3, frames=9)
    write_clip(first / "uncaptioned.mp4", 4, caption=None)
    write_clip(first / "wordless.mp4", 5, caption=" \n")
    write_clip(first / "both.mp4", 6, caption="right to left, left to right")
    write_clip(first / HOSTILE, 7)
    (first / "torn.mp4").write_bytes(write_clip(first / "x.mp4", 8).read_bytes()[:700])
    (first / "x.mp4").unlink()
    (first / "empty.gif").touch()
    (first / "old.avi").write_bytes(b"RIFF")
    (first / "folder.mp4").mkdir()
    os.mkfifo(first / "pipe.mp4")
    (first / "loop.mp4").symlink_to("loop.mp4")
    (second / "same.mp4").write_bytes((first / "fit.mp4").read_bytes())
    (second / "same.txt").write_text("a cat", encoding="utf-8")
    write_mp4(second / "similar.mp4", panning(1), 16, crf=20)
    (second / "similar.txt").write_text("a cat", encoding="utf-8")
    return data_set(folder, "first", "second")


EXPECTED = {  # file name: state, what its reasons say
    "fit.mp4": ("fit", ""),
    HOSTILE: ("fit", ""),
    "fast.mp4": ("unfit", "set source_fps = 30.0"),
    "short.mp4": ("unfit", "9 frames, 17 are needed"),
    "uncaptioned.mp4": ("unfit", "no caption: expected uncaptioned.txt"),
    "wordless.mp4": ("unfit", "empty caption"),
    "both.mp4": ("unfit", "both directions"),
    "same.mp4": ("unfit", "the same file as"),
    "similar.mp4": ("unfit", "looks like"),
    "torn.mp4": ("unreadable", ""),
    "empty.gif": ("unreadable", ""),
    "old.avi": ("unreadable", "convert it"),
    "folder.mp4": ("unreadable", "found a folder"),
    "pipe.mp4": ("unreadable", "a device, pipe or socket"),
    "loop.mp4": ("unreadable", "a link that leads nowhere"),
}
