"""Stage `generate`: each held-out scene's first frame, filmed by the base alone and by the base with the pair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from musubi_ext.demo.stages import Demo
from musubi_ext.demo.training import base_folder
from musubi_ext.demo.workers import spread
from musubi_ext.evaluation.truth import Truth
from musubi_ext.storage import atomic_path, write_json
from musubi_ext.video import Frames

if TYPE_CHECKING:
    from musubi_ext.generation.circle_rotate import CircleRotate

FPS = 8.0
SHIFT = 5.0


@dataclass(frozen=True)
class SceneJob:
    """Film one scene. `truth` is its NPZ beside its caption; `seed` draws the noise, the same for base and pair."""

    truth: Path
    base: Path
    pair: Path
    out: Path
    seed: int
    steps: int


def scene_files(folder: Path) -> list[Path]:
    """The truth of every scene, in order."""
    return sorted(folder.glob("*.npz"))


def generate(demo: Demo) -> None:
    """Fill `videos`: mp4 to look at, npz to measure, and the seconds that each video took."""
    options, layout = demo.options, demo.layout
    base = base_folder(options).absolute()
    jobs = [
        SceneJob(truth, base, layout.pair, layout.videos, options.seed + index, options.sampler_steps)
        for index, truth in enumerate(scene_files(layout.scenes))
    ]
    _rotate.cache_clear()  # where an earlier demo ran in this very process, its pair lay in the same folder
    seconds = spread(film, jobs, "generating", demo.console)
    write_json(
        layout.videos / "seconds.json", {job.truth.stem: taken for job, taken in zip(jobs, seconds, strict=True)}
    )


def film(job: SceneJob) -> dict[str, float]:
    """Write one scene's videos; returns the seconds of base and pair."""
    truth, prompt = Truth.load(job.truth), job.truth.with_suffix(".txt").read_text(encoding="utf-8").strip()
    frames, height, width = truth.frames.shape[:3]
    # Said in full, for a folder given as --base has no settings of its own.
    settings: dict[str, Any] = {"size": (width, height), "frames": frames, "steps": job.steps, "seed": job.seed,
                                "shift": SHIFT, "fps": FPS, "guidance": 1.0, "guidance_2": 1.0}  # fmt: skip
    with _one_thread():
        rotates = {"base": _rotate(job.base, None), "pair": _rotate(job.base, job.pair)}
        made = {name: rotate(truth.frames[0], prompt, **settings) for name, rotate in rotates.items()}
        truth_through_vae = reconstruct(rotates["base"], truth.frames)
    for name, video in made.items():
        video.save(job.out / f"{job.truth.stem}_{name}.mp4")
    with atomic_path(job.out / job.truth.name) as temporary:
        base, pair = made["base"].frames, made["pair"].frames
        np.savez_compressed(temporary, truth=truth_through_vae, base=base, pair=pair)
    return {name: round(video.seconds, 4) for name, video in made.items()}


@lru_cache(maxsize=2)
def _rotate(base: Path, pair: Path | None) -> CircleRotate:
    """Loaded once in each process."""
    from musubi_ext.generation.circle_rotate import CircleRotate

    return CircleRotate(base, pair)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A process a core is faster than threads on tensors this small, and sums are added in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def reconstruct(rotate: CircleRotate, frames: Frames) -> Frames:
    """Frames (F, H, W, 3) after the base's VAE, the best that any latent could show: uint8, the same shape."""
    vae = rotate.pipeline.vae
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].to(vae.dtype) / 127.5 - 1  # (1, 3, F, H, W)
    decoded = vae.decode(vae.encode(clip).latent_dist.mode()).sample[0]
    levels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 3, 0).numpy())
