"""What the benchmarks on musubi-tuner train on: cached clips that both trainers read, and experts of any size.

The caches are those of the shipped pocket pipeline, once with its own narrow text states for the extension and once as
wide as upstream's model wants them; the experts are files in Wan's own layout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from musubi_ext.adapters.tensors import write_tensors
from musubi_ext.demo.clips import CLIP_SEED
from musubi_ext.orbits.cache.files import read_metadata
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.orbits.render import write_dataset
from musubi_ext.pocket.config import TEXT_DIM, TEXT_TOKENS, Size, build_expert, pipeline_path
from musubi_ext.pocket.upstream import TEXT_WIDTH, to_upstream, widen
from musubi_ext.storage import write_text

TOML = """\
[general]
resolution = [64, 64]
caption_extension = ".txt"
batch_size = {batch}

[[datasets]]
video_directory = {clips}
cache_directory = {cache}
target_frames = [17]
"""
ORBIT = """
[orbit]
holdout = 0.2
"""


@dataclass(frozen=True)
class Data:
    """Two data sets of the same clips."""

    plain: Path  # TOML without our table: upstream's loader, text states 4096 wide
    orbit: Path  # with it: our loader


def make_data(folder: Path, clips: int, batch: int) -> Data:
    """Rendered clips of 64×64×17 (latents 16×5×8×8), cached once; a TOML of each kind for this batch size."""
    narrow, wide = folder / "cache", folder / "wide"
    write_dataset(folder / "clips", clips, seed=CLIP_SEED)
    data = Data(folder / f"plain_{batch}.toml", folder / f"orbit_{batch}.toml")
    for path, cache, more in ((data.plain, wide, ""), (data.orbit, narrow, ORBIT)):
        folders = {"clips": folder / "clips", "cache": cache}
        quoted = {name: json.dumps(each.absolute().as_posix()) for name, each in folders.items()}
        write_text(path, TOML.format(batch=batch, **quoted) + more)
    cache_dataset(load_dataset_config(data.orbit), pipeline_path(), progress=False)
    wide.mkdir(exist_ok=True)
    for path in narrow.iterdir():
        tensors = {key: widen(value, TEXT_WIDTH) if "t5" in key else value for key, value in load_file(path).items()}
        save_file(tensors, wide / path.name, metadata=read_metadata(path))
    return data


def random_expert(path: Path, heads: int, layers: int, ffn: int, seed: int = 0) -> Path:
    """An expert of random float32 weights, heads of 128, in Wan's own layout; written once."""
    if not path.exists():
        size = Size(heads, 128, layers, ffn, vae_encoder=8, vae_decoder=8, vae_levels=(1, 1, 1))
        torch.manual_seed(seed)
        state = to_upstream(build_expert(size).state_dict())
        stated = {"num_heads": heads, "freq_dim": 64, "text_dim": TEXT_DIM, "text_tokens": TEXT_TOKENS}
        write_tensors(path, state, {name: str(value) for name, value in stated.items()})
    return path


def train_words(data: Path, dit: dict[str, Path], out: Path, steps: int) -> list[str]:
    """A command that trains experts inside musubi-tuner: {"dit": low, "dit_high_noise": high}, one or both."""
    flags = {
        "host": "musubi",
        "task": "pocket-i2v",
        **dit,
        "vae": pipeline_path(),
        "t5": pipeline_path(),
        "dataset_config": data,
        "output_dir": out,
        "output_name": "orbit",
        "mixed_precision": "no",
        "optimizer_type": "adamw",
        "learning_rate": 1e-4,
        "network_module": "networks.lora_wan",
        "network_dim": 16,
        "network_alpha": 16,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 8,
        "max_train_steps": steps,
        "max_data_loader_n_workers": 0,
        "seed": 42,
    }
    return ["--sdpa", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]
