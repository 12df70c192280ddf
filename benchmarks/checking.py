"""`data check` with all checks on: clips a second, and what it takes in memory as a data set grows.

Every measurement is a fresh process. Copies of a clip carry a number in a box of their own at the end of the file,
where no decoder reads, so that none is recognised as measured already.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from resident import high_water, with_children

TOML = """
[general]
resolution = [{width}, {height}]
caption_extension = ".txt"
[[datasets]]
video_directory = "{clips}"
target_frames = [{frames}]
"""
INTERVAL = 0.1  # seconds between two looks at the processes


def copies(clips: Sequence[Path], folder: Path, count: int) -> None:
    """`count` MP4 files with captions, the given ones over and over, no two of the same bytes."""
    folder.mkdir(parents=True)
    for index in range(count):
        source, name = clips[index % len(clips)], folder / f"clip_{index:05d}"
        box = index.to_bytes(8, "big")
        name.with_suffix(".mp4").write_bytes(source.read_bytes() + (8 + len(box)).to_bytes(4, "big") + b"free" + box)
        shutil.copy(source.with_suffix(".txt"), name.with_suffix(".txt"))


def check(folder: Path, frames: int, width: int, height: int, workers: int) -> tuple[int, float, int, int]:
    """Clips, seconds, and the highest bytes of the checking process and of all its processes together."""
    toml, report = folder / "data.toml", folder / "report"
    toml.write_text(TOML.format(clips=folder / "clips", frames=frames, width=width, height=height))
    words = ["data", "check", str(toml), "--report", str(report), "--workers", str(workers)]
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "musubi_ext.cli", *words], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)  # fmt: skip
    own, everyone = 0, 0
    while child.poll() is None:
        own, everyone = max(own, high_water(child.pid)), max(everyone, with_children(child.pid))
        threading.Event().wait(INTERVAL)
    seconds = time.perf_counter() - started
    assert child.returncode in (0, 1), f"data check ended with {child.returncode}"  # 1: some clips are unfit
    clips = len(json.loads((report / "report.json").read_text(encoding="utf-8"))["clips"])
    return clips, seconds, own, everyone


def rendered(folder: Path, count: int, frames: int, size: tuple[int, int]) -> list[Path]:
    """Clips of the renderer, with captions."""
    from musubi_ext.orbits.render import write_dataset

    write_dataset(folder, count, look="textured", size=size, frames=frames)
    return sorted(folder.glob("*.mp4"))


def speed(folder: Path, clips: Sequence[Path], count: int, workers: int) -> list[str]:
    """One row: `count` clips like the given ones, of 51 frames at 180x320."""
    copies(clips, folder / "clips", count)
    done, seconds, own, everyone = check(folder, 49, 176, 320, workers)
    return [f"{done} clips, 51 frames, 180x320", *_figures(done, seconds, own, everyone)]


def growth(folder: Path, count: int, workers: int) -> list[str]:
    """One row: `count` small clips made of 20."""
    copies(rendered(folder / "seen", 20, 17, (64, 64)), folder / "clips", count)
    done, seconds, own, everyone = check(folder, 17, 64, 64, workers)
    return [f"{done} clips, 17 frames, 64x64", *_figures(done, seconds, own, everyone)]


def _figures(clips: int, seconds: float, own: int, everyone: int) -> list[str]:
    return [f"{seconds:.1f} s", f"{clips / seconds:.2f} clips/s", f"{own / 1e6:.0f} MB", f"{everyone / 1e6:.0f} MB"]
