"""Stages `render` and `scenes`: clean orbits to learn from, and unseen scenes to be judged on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from musubi_ext.demo.stages import Demo
from musubi_ext.demo.workers import spread
from musubi_ext.orbits.render import write_dataset
from musubi_ext.orbits.scenes import Family

CLIP_SEED = 100_000  # clip i is scene 100,000 + i of the training subjects
SCENE_SEED = 900_000  # held-out scene i is scene 900,000 + i, which neither clips nor the base's corpus hold
FAMILY: dict[str, Family] = {"known": "train", "unseen": "heldout"}
CHUNK = 2  # clips a job: directions alternate from the first clip of a call on, so chunks are even


def render_clips(demo: Demo) -> None:
    """Training clips; those that an interrupted demo left are kept."""
    chunk = partial(_render_clips, demo.layout.clips)
    _render(demo, chunk, demo.options.clips)


def render_scenes(demo: Demo) -> None:
    """Held-out scenes, each with views all around, against which swept angles are measured."""
    chunk = partial(_render_scenes, demo.layout.scenes, FAMILY[demo.options.shapes])
    _render(demo, chunk, demo.options.scenes)


def _render(demo: Demo, chunk: partial[list[Path]], count: int) -> None:
    jobs = [(start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)]
    spread(chunk, jobs, "rendering", demo.console)


def _render_clips(folder: Path, job: tuple[int, int]) -> list[Path]:
    start, count = job
    return write_dataset(folder, count, domain="orbit", seed=CLIP_SEED + start, family="train")


def _render_scenes(folder: Path, family: Family, job: tuple[int, int]) -> list[Path]:
    start, count = job
    return write_dataset(folder, count, domain="orbit", seed=SCENE_SEED + start, family=family, with_sweep=True)
