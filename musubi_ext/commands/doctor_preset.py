"""Whether a preset fits into this machine's memory, by the estimate of `hosts/memory.py` for clips of usual sizes."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from musubi_ext.commands.doctor_checks import GIB, Check, either
from musubi_ext.errors import UserError

if TYPE_CHECKING:
    from musubi_ext.hosts.memory import DitShape

POCKET = "pocket-i2v"
Latent = tuple[int, int, int]  # F, h, w: (frames + 3) / 4, height / 8, width / 8
# The first must fit; where one of the others does not, that is said.
A14B_CLIPS: dict[str, Latent] = {
    "33 frames of 832x480": (9, 60, 104),
    "81 frames of 832x480": (21, 60, 104),
    "81 frames of 1280x720": (21, 90, 160),
}
POCKET_CLIPS: dict[str, Latent] = {"17 frames of 64x64": (5, 8, 8)}
STORED = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}  # safetensors' names


def flags(preset: str) -> Namespace:
    """A preset's flags, the values as text and the switches True. Raises UserError for an unknown one."""
    from musubi_ext.hosts.presets import preset_words

    pairs = (word.removeprefix("--").partition("=") for word in preset_words(preset))
    return Namespace(**{flag: value if equals else True for flag, equals, value in pairs})


def memory(preset: Namespace, dit: Path | None) -> Iterator[Check]:
    """One check for each usual size of clips; weights of the type of `dit`, float16 where it is not given."""
    from musubi_ext.hosts.memory import estimate

    try:
        shape = _shape(preset.task)
    except UserError as error:
        yield Check("memory", "info", f"unavailable: {error.problems[0]}")
        return
    pocket = preset.task == POCKET
    for index, (clip, latent) in enumerate((POCKET_CLIPS if pocket else A14B_CLIPS).items()):
        needed = estimate(shape, latent, preset, file_type=stored(dit))
        name, found, fix = f"memory, {clip}", *_compared(needed.device, needed.host, pocket)
        yield Check(name, "info", f"{found}: too little") if fix and index else either(name, not fix, found, fix)


def _compared(device: int, main: int, pocket: bool) -> tuple[str, str]:
    """What is needed and what is there, and what to do where that is too little. The pocket model needs no CUDA."""
    import torch

    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.cuda.is_available():
        largest = max(torch.cuda.mem_get_info(index)[1] for index in range(torch.cuda.device_count()))
        found = f"{_gib(device)} of a device's {_gib(largest)}, {_gib(main)} of {_gib(there)} main memory"
        fixes = ["choose another preset, more --blocks_to_swap, or smaller clips"] if device > largest else []
        return found, "; ".join(fixes + (["add main memory, or fewer --blocks_to_swap"] if main > there else []))
    if pocket:
        found = f"{_gib(device + main)} of {_gib(there)} main memory"
        return found, "" if device + main <= there else "add main memory"
    fix = f"use a machine with a CUDA device of {_gib(device)} or more, or --preset pocket"
    return f"{_gib(device)} of a CUDA device and {_gib(main)} of main memory, found no CUDA device", fix


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _shape(task: str) -> DitShape:
    from musubi_ext.hosts.memory import DitShape
    from musubi_ext.hosts.musubi.importing import import_host
    from musubi_ext.pocket.config import SHIPPED, TEXT_DIM

    if task != POCKET:
        return DitShape.of_config(import_host().WAN_CONFIGS[task])
    return DitShape(SHIPPED.heads * SHIPPED.head_dim, SHIPPED.ffn, SHIPPED.layers, freq_dim=64, text_dim=TEXT_DIM)


def stored(dit: Path | None) -> str:
    """The type that most bytes of the file have."""
    from musubi_ext.adapters.tensors import read_header

    if dit is None or not dit.is_file():
        return "fp16"
    try:
        header = read_header(dit)
    except UserError:  # a check of its own says so
        return "fp16"
    sizes: dict[str, int] = {}
    for key, entry in header.items():
        if key != "__metadata__":
            start, end = entry["data_offsets"]
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - start
    return STORED.get(max(sizes, key=lambda dtype: sizes[dtype], default=""), "fp16")
