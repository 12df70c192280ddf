"""What can be known of weights and device before anything is loaded: keys, shapes and types, all mistakes at once.

musubi-tuner finds these after minutes of loading, one at a time, as failed assertions (`handle_model_specific_args`,
`load_state_dict(strict=True)`, `enable_block_swap`), or not at all.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from musubi_ext.adapters.tensors import LONGEST_HEADER
from musubi_ext.adapters.updates import listed
from musubi_ext.errors import Problems
from musubi_ext.hosts.memory import DitShape
from musubi_ext.hosts.musubi.cache_checks import check_caches
from musubi_ext.hosts.optimizers import optimizer_class
from musubi_ext.pocket.upstream import INSIDE, OUTSIDE
from musubi_ext.schedule.experts import Expert

__all__ = ["DitFile", "check_caches", "check_device", "check_weights"]

FLAGS = {Expert.HIGH: "--dit_high_noise", Expert.LOW: "--dit"}
TYPES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}
PREFIX = "model.diffusion_model."  # some files have it; upstream takes it off
SHOWS_TYPE = "blocks.0.cross_attn.k.weight"  # upstream believes this tensor of the named file (detect_wan_sd_dtype)
_SHARD = re.compile(r"(.*?)\d+-of-(\d+)\.safetensors")  # get_split_weight_filenames
# Keys that tell another kind of file by one look: (pattern, what it is, what to do).
_OTHERS = (
    (r"condition_embedder\.", "diffusers' layout", "use the single file in Wan's own layout"),
    (r"lora_|.*\.lora_[AB]\.|.*\.lora_(down|up)\.", "an adapter", "name the base model's weights"),
    (r"scaled_fp8|.*\.scale_(weight|input)", "scaled fp8 weights", "use the fp16 file, with --fp8_base --fp8_scaled"),
    (r"img_emb\.|.*\.cross_attn\.k_img\.", "a Wan2.1 image-to-video model", "use one of the two Wan2.2 experts"),
)
Header = dict[str, tuple[tuple[int, ...], str]]  # key → shape, type in safetensors' words


@dataclass(frozen=True)
class DitFile:
    """An expert's weights, as their header describes them."""

    path: Path
    shape: DitShape
    file_type: str  # fp32, fp16, bf16 or fp8


def check_weights(
    path: Path, expert: Expert, config: Mapping[str, Any], args: Namespace, problems: Problems
) -> DitFile | None:
    """Record what is wrong with an expert's file; `config` is the task's entry of WAN_CONFIGS (dim, ffn_dim, …).

    Two experts that fit one task are of one shape. Of `args`: task, mixed_precision, fp8_scaled, blocks_to_swap.
    Returns None where there is no Wan in the file.
    """
    path, where = Path(path), f"{FLAGS[expert]} {path}"
    parts = {file: _read(file, where, problems) for file in _files(path, where, problems)}
    header: Header = {key: value for part in parts.values() for key, value in part.items()}
    if not all(parts.values()) or not header or not _is_wan(header, where, problems):
        return None
    if SHOWS_TYPE not in parts.get(path, header):
        problems.add(where, f"expected {SHOWS_TYPE} in it, found it in another part", "name the part that holds it")
    found = DitFile(path, _shape(header), TYPES.get(header[SHOWS_TYPE][1], header[SHOWS_TYPE][1]))
    _check_shape(found.shape, config, args, where, problems)
    _check_type(found.file_type, args, where, problems)
    return found


def check_device(args: Namespace, problems: Problems) -> None:
    """Record the flags of `args` that this machine cannot follow: optimizer, precision, block swap."""
    problems.collect(lambda: optimizer_class(args.optimizer_type or "adamw"))
    if torch.cuda.is_available():
        return
    if args.mixed_precision == "fp16":
        problems.add("--mixed_precision fp16", "needs a CUDA device, found none", "use bf16 or no")
    for name in ("fp8_base", "fp8_scaled"):
        if getattr(args, name):
            problems.add(f"--{name}", "needs a CUDA device, found none", "leave it out, or --without it in a preset")
    if args.blocks_to_swap:
        problems.add("--blocks_to_swap", "needs a CUDA device, found none", "leave it out")


def _files(path: Path, where: str, problems: Problems) -> list[Path]:
    """The file, or all parts of a model in parts; empty, and recorded, where it cannot be read as upstream reads it."""
    if path.is_dir() or path.suffix != ".safetensors":
        kind = "a folder" if path.is_dir() else path.suffix or "no suffix"
        problems.add(where, f"musubi-tuner reads weights from a .safetensors file, found {kind}", "convert them first")
        return []
    match = _SHARD.fullmatch(path.name)
    count = int(match[2]) if match else 1
    names = [f"{match[1]}{part + 1:05d}-of-{count:05d}.safetensors" for part in range(count)] if match else [path.name]
    files = [path.with_name(name) for name in names]
    if absent := [file.name for file in files if not file.is_file()]:
        problems.add(where, f"no such file: {listed(absent)}")
        return []
    return files


def _read(path: Path, where: str, problems: Problems) -> Header:
    """Keys without prefix; empty, and recorded, where the file is damaged or holds no tensors."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_HEADER:
        problems.add(where, f"{path.name}: no safetensors file: its header would be {length} bytes", "copy it again")
        return {}
    try:
        with safe_open(path, "pt") as tensors:
            parts = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118 - no mapping
            header = {key: (tuple(part.get_shape()), str(part.get_dtype())) for key, part in parts.items()}
    except SafetensorError as error:
        problems.add(where, f"{path.name}: damaged or no safetensors file: {error}", "copy it again")
        return {}
    if not header:
        problems.add(where, f"{path.name}: holds no tensors")
    return {key.removeprefix(PREFIX): value for key, value in header.items()}


def _is_wan(header: Header, where: str, problems: Problems) -> bool:
    """Whether the keys are exactly those of a Wan2.2 transformer, as upstream's strict loading wants them."""
    for pattern, kind, fix in _OTHERS:
        if any(re.match(pattern, key) for key in header):
            problems.add(where, f"expected Wan2.2's own layout, found {kind}", fix)
            return False
    layers = {match[1] for key in header if (match := re.match(r"blocks\.(\d+)\.", key))}
    expected = {wan + end for _, wan, ends in OUTSIDE for end in ends}
    expected |= {f"blocks.{i}.{wan}{end}" for i in range(len(layers) or 1) for _, wan, ends in INSIDE for end in ends}
    for kind, keys in (("missing", expected - header.keys()), ("unknown", header.keys() - expected)):
        if keys:
            problems.add(where, f"{kind} keys {listed(sorted(keys))}", "expected a Wan2.2 transformer's weights")
    return header.keys() == expected


def _shape(header: Header) -> DitShape:
    def size(key: str, axis: int) -> int:
        return header[key][0][axis] if len(header[key][0]) > axis else 0  # 0: no such axis; fits no task

    return DitShape(
        dim=size("patch_embedding.weight", 0),
        ffn_dim=size("blocks.0.ffn.0.weight", 0),
        num_layers=sum(key.endswith(".ffn.0.weight") for key in header),
        in_dim=size("patch_embedding.weight", 1),
        freq_dim=size("time_embedding.0.weight", 1),
        text_dim=size("text_embedding.0.weight", 1),
        out_dim=size("head.head.weight", 0) // 4,
    )


def _check_shape(shape: DitShape, config: Mapping[str, Any], args: Namespace, where: str, problems: Problems) -> None:
    wanted = DitShape.of_config(config)
    for name in ("dim", "ffn_dim", "num_layers", "in_dim", "freq_dim", "text_dim", "out_dim"):
        found, expected = getattr(shape, name), getattr(wanted, name)
        if found != expected:
            meaning = {36: ": image-to-video", 16: ": text-to-video"}.get(found, "") if name == "in_dim" else ""
            problems.add(where, f"{name} {found}{meaning}, expected {expected}", f"--task {args.task} is another model")
    if (args.blocks_to_swap or 0) >= shape.num_layers:
        most = shape.num_layers - 1
        problems.add(f"--blocks_to_swap {args.blocks_to_swap}", f"expected at most {most}, one less than all blocks")


def _check_type(found: str, args: Namespace, where: str, problems: Problems) -> None:
    """fp16 weights train in fp16 or no, bf16 in bf16 or no, fp32 and fp8 in any."""
    given = args.mixed_precision
    if found not in TYPES.values():
        problems.add(where, f"expected weights of {', '.join(sorted(set(TYPES.values())))}, found {found}")
    elif found in ("fp16", "bf16") and given not in (found, "no"):
        said = f"--mixed_precision {given}" if given else "no --mixed_precision"
        problems.add(where, f"its weights are {found}, found {said}", f"use --mixed_precision {found}")
    elif found == "fp8" and args.fp8_scaled:
        problems.add(where, "its weights are fp8 already, --fp8_scaled scales larger ones", "leave --fp8_scaled out")
