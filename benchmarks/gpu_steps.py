"""Seconds per step and peak memory of one phase on a GPU: 14B weights in fp8, 81 frames, upstream and the extension.

    MUSUBI_TUNER_HOME=… python benchmarks/gpu_steps.py --out runs/gpu --markdown docs/TRAINING_RESULTS.md

The weights are random, all 40 layers in Wan's own layout (14 GB, written to `--out` once), and so are the caches; what
a step costs does not depend on their values. Circle-Rotate's flags but for bf16, in which random weights cannot
overflow. Every training is a fresh process. `--tiny` runs the same on the CPU with a model of two layers, to see that
the script works. Without CUDA and `--tiny` it ends with one sentence.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_phase import PhaseCost, phase_cost
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from tables import insert, machine, table
from torch import Tensor

from musubi_ext.hosts.musubi.importing import import_host, import_host_module
from musubi_ext.orbits.cache.files import LatentFile, latent_path, text_path, write_latents, write_text
from musubi_ext.orbits.conditioning import condition_mask
from musubi_ext.storage import atomic_path, write_json
from musubi_ext.storage import write_text as write_words

TASK = "i2v-A14B"
CLIPS, TOKENS = 2, 128  # cached clips, and tokens of each caption
GIB = 1 << 30
TINY_SIZES = {"dim": 64, "ffn_dim": 128, "freq_dim": 64, "num_heads": 2, "num_layers": 2}
WAYS = {"upstream": ("--extension", "off"), "ours": ("--experts", "low", "--no_mlflow", "--overwrite")}


@dataclass(frozen=True)
class Case:
    """One training: clips of (width, height) pixels, blocks that wait in main memory."""

    clip: str
    size: tuple[int, int]
    frames: int
    swap: int
    way: str


def main(argv: Sequence[str] | None = None) -> None:
    """Train every case, and write `OUT/gpu_steps.json` and the Markdown table."""
    args = parser().parse_args(argv)
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("gpu_steps.py: needs a CUDA device, found none (--tiny tries the script on the CPU)")
    console = Console(stderr=True)
    dit = write_weights(
        args.out / ("tiny.safetensors" if args.tiny else "random_14b_fp8.safetensors"), args.tiny, console
    )
    costs: list[tuple[Case, PhaseCost]] = []
    with Progress(console=console) as bar:
        todo = list(cases(args.tiny))
        task = bar.add_task("", total=len(todo))
        for case in todo:
            bar.update(task, description=f"{case.clip}, {case.swap} blocks swapped, {case.way}")
            log = args.out / f"{case.clip}-{case.swap}-{case.way}.txt"
            costs.append((case, phase_cost(words(args, case, dit), log, TINY_SIZES if args.tiny else {})))
            bar.advance(task)
    rows = [{**asdict(case), **asdict(cost)} for case, cost in costs]
    document = {
        "device": device(),
        "model": model(args.tiny),
        "steps": args.steps,
        "optimizer": optimizer(args.tiny),
        "rows": rows,
    }
    write_json(args.out / "gpu_steps.json", document)
    text = markdown(document)
    print(text)
    if args.markdown:
        insert(args.markdown, "gpu_steps", text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/gpu"), help="14 GB of weights are written there")
    made.add_argument("--steps", type=int, default=6, help="updates of each training; the first is not counted")
    made.add_argument("--tiny", action="store_true", help="two layers on the CPU: tries the script, measures nothing")
    made.add_argument("--markdown", type=Path, help="file whose table is replaced")
    return made


def cases(tiny: bool) -> Iterator[Case]:
    """Every training. Block swap needs CUDA, and the tiny model has two blocks."""
    clips = {"tiny": (64, 32)} if tiny else {"480p": (832, 480), "720p": (1280, 720)}
    for clip, size in clips.items():
        for swap in (0,) if tiny else (0, 30):
            for way in WAYS:
                yield Case(clip, size, 5 if tiny else 81, swap, way)


def write_weights(path: Path, tiny: bool, console: Console) -> Path:
    """Random weights under upstream's own names and shapes; fp8 as they are stored for `--fp8_base`. Written once."""
    if path.exists():
        return path
    shapes = upstream_shapes(TINY_SIZES if tiny else {})
    where = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with Progress(console=console) as bar:
        named = bar.track(shapes.items(), description=f"weights of {len(shapes)} tensors")
        state = {name: random_weight(name, shape, where, tiny) for name, shape in named}
    with atomic_path(path) as temporary:
        save_file(state, temporary)
    return path


def upstream_shapes(sizes: Mapping[str, int]) -> dict[str, torch.Size]:
    """What musubi-tuner's own model holds, built without memory; `sizes` in place of the task's."""
    config = {**import_host().WAN_CONFIGS[TASK], **sizes}
    names = ("dim", "eps", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "text_len")
    with torch.device("meta"):
        model = import_host_module("musubi_tuner.wan.modules.model").WanModel(
            model_type="i2v", model_version="2.2", attn_mode="torch", **{name: config[name] for name in names}
        )
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def random_weight(name: str, shape: torch.Size, where: str, tiny: bool) -> Tensor:
    """Norms 1, biases 0, the rest normal with a variance of 1 / inputs: activations stay of order 1."""
    if name.endswith("bias"):
        weight = torch.zeros(shape, device=where)
    elif "norm" in name:
        weight = torch.ones(shape, device=where)
    else:
        weight = torch.randn(shape, device=where) / math.sqrt(max(math.prod(shape[1:]), 1))
    return weight.to(torch.float32 if tiny else torch.float8_e4m3fn).cpu()


def write_caches(folder: Path, case: Case) -> Path:
    """Random latents, their conditioning and captions, as cached for the first frame; returns the data set's TOML."""
    toml = folder / f"{case.clip}.toml"
    clips, cache = folder / "no_clips", folder / case.clip
    width, height = case.size
    latent = (case.frames - 1) // 4 + 1, height // 8, width // 8
    torch.manual_seed(0)
    for folder_needed in (clips, cache):
        folder_needed.mkdir(parents=True, exist_ok=True)
    for number in range(CLIPS):
        stem = f"clip_{number}"
        window = (0, case.frames)
        file = LatentFile(latent_path(cache, stem, window, case.size), stem, window, case.size)
        mask = condition_mask(case.frames, (latent[1], latent[2]), last=False)
        write_latents(file, torch.randn(16, *latent), torch.cat([mask, torch.randn(16, *latent)]), {})
        write_text(text_path(cache, stem), torch.randn(TOKENS, 4096), "random", {})
    folders = (
        f"video_directory = {json.dumps(str(clips.absolute()))}\ncache_directory = {json.dumps(str(cache.absolute()))}"
    )
    general = f'[general]\nresolution = [{width}, {height}]\ncaption_extension = ".txt"\nbatch_size = 1\n'
    write_words(toml, f"{general}\n[[datasets]]\n{folders}\ntarget_frames = [{case.frames}]\n")
    return toml


def words(args: argparse.Namespace, case: Case, dit: Path) -> list[str]:
    """The training's command."""
    flags = {
        "task": TASK,
        "host": "musubi",
        "dit": dit,
        "dataset_config": write_caches(args.out / "data", case),
        "output_dir": args.out / "adapters" / case.way,
        "output_name": "steps",
        "mixed_precision": "no" if args.tiny else "bf16",
        "optimizer_type": optimizer(args.tiny),
        "learning_rate": 2e-4,
        "network_module": "networks.lora_wan",
        "network_dim": 32,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 8,
        "max_train_steps": args.steps,
        "max_data_loader_n_workers": 0,
        "seed": 42,
    }
    switches = ["--sdpa", "--gradient_checkpointing", "--gradient_checkpointing_cpu_offload"]
    switches += [] if args.tiny else ["--fp8_base"]
    switches += ["--blocks_to_swap", str(case.swap)] if case.swap else []
    return [*(word for name, value in flags.items() for word in (f"--{name}", str(value))), *switches, *WAYS[case.way]]


def optimizer(tiny: bool) -> str:
    """The recipe's 8-bit AdamW where bitsandbytes is installed; the table says which it was."""
    return "adamw8bit" if not tiny and importlib.util.find_spec("bitsandbytes") else "adamw"


def device() -> str:
    """What the figures are of."""
    if not torch.cuda.is_available():
        return machine()
    found = torch.cuda.get_device_properties(0)
    return f"{found.name}, {found.total_memory / GIB:.0f} GiB, torch {torch.__version__}"


def model(tiny: bool) -> str:
    """What is trained, in the table's words."""
    return "A model of two layers, which measures nothing" if tiny else "Random 14B weights in fp8 (40 layers), bf16"


def markdown(document: Mapping[str, Any]) -> str:
    """The table, with the device's name."""
    rows = document["rows"]
    upstream = {(row["clip"], row["swap"]): row for row in rows if row["way"] == "upstream"}
    cells = []
    for row in rows:
        name = [f"{row['clip']}, {row['frames']} frames", str(row["swap"]), row["way"]]
        if row["out_of_memory"]:
            cells.append([*name, "out of memory", "–", "–", "–", "–"])
            continue
        base = upstream[row["clip"], row["swap"]]
        seconds = median(row["seconds"])
        ratio = "–" if base["out_of_memory"] else f"{seconds / median(base['seconds']):.3f}"
        memory = [f"{row[part] / GIB:.1f}" for part in ("device_bytes", "device_step_bytes", "main_bytes")]
        cells.append([*name, f"{seconds:.2f}", ratio, *memory])
    head = ["clip", "blocks swapped", "way", "s a step", "÷ upstream"]
    return "\n".join(
        [
            f"{document['device']}. {document['model']}, rank 32, {document['optimizer']}, gradient checkpointing with "
            f"CPU offload; median of {document['steps'] - 1} steps; memory in GiB.",
            "",
            table([*head, "peak on the device", "in steps alone", "peak of main memory"], cells),
        ]
    )


if __name__ == "__main__":
    main()
