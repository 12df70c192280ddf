"""The clips that the pocket Wan is trained on: rendered once, kept as one uint8 array that is read page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from musubi_ext.orbits.render import render
from musubi_ext.orbits.scenes import Domain
from musubi_ext.storage import atomic_path, write_json
from musubi_ext.video import Frames

FRAMES, SIDE = 17, 64
FIRST_SEED = 1_000_000  # far from the seeds of data sets and held-out scenes


@dataclass(frozen=True)
class Corpus:
    """`frames` (N, 17, 64, 64, 3) uint8 with the caption and direction of each clip."""

    frames: Frames
    captions: list[str]
    directions: list[int]


def counts(scale: float) -> dict[Domain, int]:
    """Scenes per domain; each moving scene is rendered in both directions from the same first frame."""
    return {"wild": int(2500 * scale), "orbit": int(200 * scale), "static": int(300 * scale), "pan": int(150 * scale)}


def build(folder: Path, scale: float, workers: int) -> Corpus:
    """Render the corpus into `folder`, or read it if it is already there."""
    array, words = folder / "corpus.npy", folder / "corpus.json"
    if not (array.exists() and words.exists()):
        jobs = list(_jobs(scale))
        labels: list[tuple[str, int]] = []
        with atomic_path(array) as temporary, ProcessPoolExecutor(workers) as pool:
            frames = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(jobs), FRAMES, SIDE, SIDE, 3))
            results = pool.map(_clip, jobs, chunksize=16)
            for index, (clip, label) in enumerate(track(results, "render the corpus", len(jobs))):
                frames[index] = clip
                labels.append(label)
            frames.flush()
        write_json(words, labels)
    captions, directions = zip(*json.loads(words.read_text()), strict=True)
    return Corpus(np.load(array, mmap_mode="r"), list(captions), list(directions))


def _jobs(scale: float) -> Iterator[tuple[int, Domain, int]]:
    for offset, (domain, scenes) in enumerate(counts(scale).items()):
        for index in range(scenes):
            for direction in (+1,) if domain == "static" else (+1, -1):
                yield FIRST_SEED * (1 + offset) + index, domain, direction


def _clip(job: tuple[int, Domain, int]) -> tuple[Frames, tuple[str, int]]:
    clip = render(job[0], job[1], job[2], frames=FRAMES, size=(SIDE, SIDE))
    return clip.frames, (clip.caption, clip.direction)
