"""Stages `render` and `scenes`: clean orbits to learn from, and unseen scenes to be judged on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from musubi_ext.demo.stages import Demo
from musubi_ext.demo.workers import spread
from musubi_ext.orbits.render import write_dataset
from musubi_ext.orbits.scenes import Family
from musubi_ext.pipeline import rendered

CLIP_SEED = rendered.CLIP_SEED
SCENE_SEED = 900_000  # held-out scene i is scene 900,000 + i, which neither clips nor the base's corpus hold
FAMILY: dict[str, Family] = {"known": "train", "unseen": "heldout"}


def render_clips(demo: Demo) -> None:
    """Training clips; those that an interrupted demo left are kept."""
    rendered.render_clips(
        demo.layout.clips, demo.options.clips, lambda work, jobs: spread(work, jobs, "rendering", demo.console)
    )


def render_scenes(demo: Demo) -> None:
    """Held-out scenes, each with views all around, against which swept angles are measured."""
    scene = partial(_render_scenes, demo.layout.scenes, FAMILY[demo.options.shapes])
    spread(scene, rendered.chunks(demo.options.scenes), "rendering", demo.console)


def _render_scenes(folder: Path, family: Family, job: tuple[int, int]) -> list[Path]:
    start, count = job
    return write_dataset(folder, count, domain="orbit", seed=SCENE_SEED + start, family=family, with_sweep=True)
