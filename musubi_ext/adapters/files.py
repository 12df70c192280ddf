"""Reading and writing one LoRA file: safetensors only, and nothing that is cut, foreign, non-finite or of no effect."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from musubi_ext.adapters.formats import Format, StateDict, detect, from_musubi, modules, to_musubi
from musubi_ext.errors import Problems, UserError
from musubi_ext.storage import atomic_path

HEADER_LIMIT = 1 << 20  # bytes; a LoRA of 40 blocks needs 150 KB


@dataclass(frozen=True)
class LoraFile:
    """`tensors` in musubi-tuner's keys, the file's own metadata, and how the file spelt its keys."""

    tensors: StateDict
    metadata: dict[str, str]
    format: Format


def read_lora(path: Path | str) -> LoraFile:
    """Read and check one LoRA. Raises UserError with every problem of the file at once."""
    file = Path(path)
    _check_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise UserError(f"{file}: truncated or damaged safetensors file ({error}); copy or train it again") from error
    form = detect(tensors, file)
    lora = to_musubi(tensors, metadata, file)
    check(lora, file)
    return LoraFile(lora, metadata, form)


def write_lora(
    path: Path | str, tensors: StateDict, metadata: Mapping[str, str] | None = None, form: Format = Format.MUSUBI
) -> None:
    """Check `tensors` (musubi-tuner's keys) and write them in the given spelling, whole or not at all."""
    check(tensors, path)
    spelt, extra = from_musubi(tensors, form)
    with atomic_path(path) as temporary:
        save_file({key: tensor.contiguous() for key, tensor in spelt.items()}, temporary, {**(metadata or {}), **extra})


def check(tensors: StateDict, where: object) -> None:
    """Every linear has down (r, in), up (out, r) and alpha of one rank, finite. Raises UserError with all faults."""
    problems = Problems()
    for name in modules(tensors):
        parts = [tensors.get(f"{name}{end}") for end in (".lora_down.weight", ".lora_up.weight", ".alpha")]
        missing = [e for e, p in zip(("lora_down.weight", "lora_up.weight", "alpha"), parts, strict=True) if p is None]
        if missing:
            problems.add(where, f"{name} lacks {', '.join(missing)}", "the file is partial: save or convert it again")
            continue
        down, up, alpha = (part for part in parts if part is not None)
        if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1] or alpha.numel() != 1:
            found = f"down {tuple(down.shape)}, up {tuple(up.shape)}, alpha {tuple(alpha.shape)}"
            problems.add(where, f"{name}: expected down (r, in), up (out, r) and one alpha, found {found}")
        if not all(torch.isfinite(part).all() for part in (down, up, alpha)):
            problems.add(where, f"{name} holds NaN or infinity", "training diverged: lower the learning rate")
    problems.raise_if_any()


def _check_header(file: Path) -> None:
    """The first eight bytes of a safetensors file are the length of a JSON header; look before anything is loaded."""
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    size = file.stat().st_size
    with open(file, "rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(HEADER_LIMIT, size):
            raise UserError(f"{file}: expected a safetensors file with a header of at most {HEADER_LIMIT} bytes")
        try:
            json.loads(opened.read(length))
        except ValueError as error:
            raise UserError(f"{file}: expected a safetensors file, found a header that is not JSON") from error
