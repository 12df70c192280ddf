"""Caching against musubi-tuner's `wan_cache_latents --i2v`: the same clips, VAE file and machine, in one process.

Imports and the models' loading are left out of the throughput and upstream's loading is left out of the second run.
"""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file

from musubi_ext.hosts.musubi.importing import import_host_module

LAYOUT = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
TOML = """
[general]
resolution = [{width}, {height}]
caption_extension = ".txt"
batch_size = 1
[[datasets]]
video_directory = "{clips}"
cache_directory = "{cache}"
target_frames = [{frames}]
"""


def write_clips(folder: Path, count: int, frames: int, width: int, height: int) -> None:
    """`count` clips of a texture that moves, captions beside them."""
    from musubi_ext.video import write_mp4

    folder.mkdir(parents=True)
    for index in range(count):
        random = np.random.default_rng(index)
        still = random.integers(0, 256, (1, height // 4, width // 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
        write_mp4(folder / f"clip_{index:04d}.mp4", np.concatenate([np.roll(still, i, 2) for i in range(frames)]), 16)
        (folder / f"clip_{index:04d}.txt").write_text(f"camera circles right to left, car number {index}")


def write_vae(path: Path, dim: int) -> Path:
    """A random VAE of upstream's class, `dim` channels wide (96 is the full size)."""
    vae = import_host_module("musubi_tuner.wan.modules.vae")
    torch.manual_seed(0)
    torch.save(vae.WanVAE_(dim=dim, z_dim=16, **LAYOUT).state_dict(), path)
    return path


def config_file(folder: Path, cache: str, frames: int, width: int, height: int) -> Path:
    """A dataset TOML for the clips of `folder`."""
    path = folder / f"{cache}.toml"
    fields = {"clips": folder / "clips", "cache": folder / cache, "frames": frames, "width": width, "height": height}
    path.write_text(TOML.format(**fields))
    return path


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


class Upstream:
    """`wan_cache_latents` with its VAE kept loaded between calls."""

    def __init__(self, vae_file: Path, dim: int) -> None:
        self.module = import_host_module("musubi_tuner.wan_cache_latents")
        vae: ModuleType = import_host_module("musubi_tuner.wan.modules.vae")
        with patch.object(vae, "_video_vae", functools.partial(vae._video_vae, dim=dim)):
            self.vae = vae.WanVAE(vae_path=str(vae_file), device=torch.device("cpu"), dtype=torch.float32)

    def cache(self, toml: Path, *words: str) -> None:
        """One run of its `main`."""
        flags = ["--dataset_config", str(toml), "--vae", "loaded", "--vae_dtype", "float32", "--i2v", "--device", "cpu"]
        with (
            patch.object(sys, "argv", ["wan_cache_latents", *flags, *words]),
            patch.object(self.module, "WanVAE", lambda **_: self.vae),
        ):
            self.module.main()


def encoders(vae_file: Path) -> Any:
    """Ours, with the pocket's text encoder: both sides time latents, ours also writes the captions' embeddings."""
    from musubi_ext.orbits.cache.encoders import Encoders
    from musubi_ext.orbits.cache.wan_vae import load_vae
    from musubi_ext.pocket.text import build_text_encoder, build_tokenizer

    return Encoders(load_vae(vae_file), build_text_encoder(), build_tokenizer())


def throughput(folder: Path, dim: int, count: int, frames: int, side: int) -> list[str]:
    """One row: clips a second of both, and their ratio."""
    from musubi_ext.orbits.cache.write import cache_dataset
    from musubi_ext.orbits.config import load_dataset_config

    write_clips(folder / "clips", count, frames, side, side)
    vae_file = write_vae(folder / "vae.pth", dim)
    theirs, ours = Upstream(vae_file, dim), encoders(vae_file)
    their_toml, our_toml = (config_file(folder, cache, frames, side, side) for cache in ("theirs", "ours"))
    config = load_dataset_config(our_toml)
    our_cpu, our_wall = timed(lambda: cache_dataset(config, ours, progress=False))
    their_cpu, their_wall = timed(lambda: theirs.cache(their_toml))
    name = f"{count} clips, {frames} frames, {side}x{side}, VAE dim {dim}"
    rates = (f"{count / seconds:.2f} clips/s" for seconds in (their_wall, our_wall))
    ratios = f"{their_cpu / our_cpu:.2f}", f"{their_wall / our_wall:.2f}"
    return [name, *rates, *ratios, f"{difference(folder / 'theirs', folder / 'ours'):.1e}"]


def difference(theirs: Path, ours: Path) -> float:
    """The largest difference between the numbers of two folders' latent caches, which must hold the same names."""
    names = [sorted(path.name for path in folder.glob("*_wan.safetensors")) for folder in (theirs, ours)]
    assert names[0] == names[1], "other files"
    worst = 0.0
    for name in names[0]:
        left, right = load_file(theirs / name), load_file(ours / name)
        assert left.keys() == right.keys(), "other tensors"
        worst = max([worst, *((left[key] - right[key]).abs().max().item() for key in left)])
    return worst


def second_run(folder: Path, count: int) -> list[str]:
    """One row: a run over a complete cache of `count` clips of 51 frames at 320x180, all of one clip's bytes."""
    from musubi_ext.orbits.cache.models import ModelFiles
    from musubi_ext.orbits.cache.write import cache_dataset
    from musubi_ext.orbits.config import load_dataset_config
    from musubi_ext.pocket.config import pipeline_path

    write_clips(folder / "clips", 1, 51, 320, 180)
    for index in range(1, count):
        shutil.copy(folder / "clips" / "clip_0000.mp4", folder / "clips" / f"clip_{index:04d}.mp4")
        shutil.copy(folder / "clips" / "clip_0000.txt", folder / "clips" / f"clip_{index:04d}.txt")
    their_toml, our_toml = (config_file(folder, cache, 17, 32, 32) for cache in ("theirs", "ours"))
    config = load_dataset_config(our_toml)
    cache_dataset(config, ModelFiles(base=pipeline_path()), progress=False)
    shutil.copytree(folder / "ours", folder / "theirs")
    our_cpu, our_wall = timed(lambda: cache_dataset(config, ModelFiles(base=pipeline_path()), progress=False))
    theirs = Upstream(write_vae(folder / "vae.pth", 8), 8)
    their_cpu, their_wall = timed(lambda: theirs.cache(their_toml, "--skip_existing"))
    name, ratios = f"second run, {count} clips cached", (f"{their_cpu / our_cpu:.0f}", f"{their_wall / our_wall:.0f}")
    return [name, f"{their_wall:.2f} s", f"{our_wall:.2f} s", *ratios]
