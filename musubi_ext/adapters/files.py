"""One LoRA file: safetensors only, and nothing that is cut, foreign, incomplete or non-finite.

musubi-tuner and ComfyUI files keep alpha as a tensor; a diffusers file keeps it as peft configuration in its metadata
(see peft_metadata), from which diffusers scales by alpha/rank itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from musubi_ext.adapters.formats import convert, detect
from musubi_ext.adapters.keys import Format, Module, Part, parse_key, spell_key
from musubi_ext.adapters.peft_metadata import ALPHA_TYPES, CONFIG, alphas_from_metadata, metadata_of_alphas
from musubi_ext.adapters.tensors import read_tensors, write_tensors
from musubi_ext.adapters.updates import check_updates, updates
from musubi_ext.errors import Problems


@dataclass(frozen=True, eq=False)
class LoraFile:
    """`tensors` in musubi keys, on the CPU and in the file's types, its own metadata, and how it spelt its keys."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]  # without what the diffusers format adds for alpha
    format: Format


def read_lora(path: Path | str) -> LoraFile:
    """Read a LoRA file of any of the three formats.

    Raises UserError for what is no whole safetensors file of at most 1 MB of header, or has unknown keys; else one that
    lists every missing half, mismatched rank, bad alpha and non-finite tensor.
    """
    found, metadata = read_tensors(path)
    form = detect(found, path)
    tensors = convert(found, Format.MUSUBI, path)
    if form is Format.DIFFUSERS:
        alphas = alphas_from_metadata(path, metadata, _modules(tensors))
        tensors = convert({**alphas, **found}, Format.MUSUBI, path)
    _check(tensors, path)
    own = {key: value for key, value in metadata.items() if key not in (CONFIG, ALPHA_TYPES)}
    return LoraFile(dict(sorted(tensors.items())), own, form)


def write_lora(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    form: Format = Format.MUSUBI,
) -> None:
    """Write a LoRA (keys of any format) as a file of `form`, atomically; the same content gives the same bytes.

    An absent alpha is written out in musubi files (alpha = rank), which diffusers does not load without. Raises
    UserError for what read_lora would refuse, and writes nothing then.
    """
    canonical = convert(tensors, Format.MUSUBI, path)
    _check(canonical, path)
    extra: dict[str, str] = {}
    if form is Format.MUSUBI:
        canonical = _explicit_alpha(canonical)
    if form is Format.DIFFUSERS:
        found = updates(canonical)
        keys = {module: spell_key(module, Part.ALPHA, Format.MUSUBI) for module in found}
        alphas = {module: canonical.pop(key) for module, key in keys.items() if key in canonical}
        extra = metadata_of_alphas(found, alphas)
    write_tensors(path, convert(canonical, form, path), {**(metadata or {}), **extra})


def _check(tensors: Mapping[str, Tensor], path: Path | str) -> None:
    problems = Problems()
    check_updates(tensors, path, problems)
    problems.raise_if_any()


def _modules(tensors: Mapping[str, Tensor]) -> list[Module]:
    return sorted({parsed[0] for key in tensors if (parsed := parse_key(key, Format.MUSUBI))})


def _explicit_alpha(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With alpha = rank written out where there is none."""
    stated = {
        spell_key(module, Part.ALPHA, Format.MUSUBI): torch.tensor(float(update.rank), dtype=update.down.dtype)
        for module, update in updates(tensors).items()
    }
    return {**stated, **tensors}
