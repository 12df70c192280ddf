"""LoRA files of Wan in musubi-tuner's, diffusers' and ComfyUI's keys, converted without loss in any direction.

Converting renames and never rescales: alpha stays a tensor of its own, so that every tensor of a round trip is the same to
the last bit. In files, musubi-tuner and ComfyUI keep alpha as a tensor; a diffusers file keeps it as peft configuration in
the metadata (see peft_metadata), from which diffusers scales by alpha/rank itself. A LoRA without alpha means alpha = rank
to every reader; musubi files get it written out, since diffusers does not load them otherwise.

In memory a LoRA is a dict of tensors in musubi keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from musubi_ext.adapters.keys import Format, Module, Part, parse_key, spell_key
from musubi_ext.adapters.peft_metadata import ALPHA_TYPES, CONFIG, alphas_from_metadata, metadata_of_alphas
from musubi_ext.adapters.tensors import read_tensors, write_tensors
from musubi_ext.adapters.updates import check_updates, listed, updates
from musubi_ext.errors import Problems, UserError

__all__ = ["Format", "convert", "detect", "file_format", "read_lora", "read_metadata", "write_lora"]


def detect(weights: Mapping[str, object], where: object = "LoRA") -> Format:
    """The format of these keys, by prefix. Raises UserError for none, or for several at once."""
    counts = {form: sum(key.startswith(form.prefix) for key in weights) for form in Format}
    found = [form for form, count in counts.items() if count]
    if not found:
        known = ", ".join(form.prefix + "…" for form in Format)
        raise UserError(f"{where}: no LoRA of Wan: keys {listed(sorted(weights)) or '(none)'} (expected {known})")
    if len(found) > 1:
        mixed = ", ".join(f"{counts[form]} of {form.value}" for form in found)
        raise UserError(f"{where}: keys of several formats at once: {mixed} (convert the parts apart)")
    return found[0]


def convert(weights: Mapping[str, Tensor], to: Format, where: object = "LoRA") -> dict[str, Tensor]:
    """The same tensors under the keys of `to`; a diffusers dict carries alpha under `….alpha`, write_lora moves it.

    Raises UserError naming every key that is unknown, or that says the same as another one: nothing is dropped.
    """
    source = detect(weights, where)
    converted: dict[str, Tensor] = {}
    unknown, doubled = [], []
    for key, tensor in weights.items():
        parsed = parse_key(key, source)
        if parsed is None:
            unknown.append(key)
        elif (name := spell_key(*parsed, to)) in converted:
            doubled.append(key)
        else:
            converted[name] = tensor
    problems = Problems()
    if unknown:
        problems.add(
            where, f"unknown {source.value} keys {listed(unknown)}", "only LoRA of Wan's attention and ffn layers"
        )
    if doubled:
        problems.add(where, f"{listed(doubled)} repeat what other keys say already")
    problems.raise_if_any()
    return converted


def read_lora(path: Path | str) -> dict[str, Tensor]:
    """A LoRA file of any of the three formats, in musubi keys, on the CPU, in the file's own types.

    Raises UserError for a file that is no whole safetensors file; else one that lists every unknown key, missing half,
    mismatched rank, bad alpha and non-finite tensor.
    """
    found, metadata = read_tensors(path)
    source = detect(found, path)
    weights = convert(found, Format.MUSUBI, path)
    if source is Format.DIFFUSERS:
        alphas = alphas_from_metadata(path, metadata, _modules(weights))
        weights = convert({**alphas, **found}, Format.MUSUBI, path)
    problems = Problems()
    check_updates(weights, path, problems)
    problems.raise_if_any()
    return weights


def read_metadata(path: Path | str) -> dict[str, str]:
    """The file's own metadata (`ss_*`, `modelspec.*`), without what the diffusers format adds for alpha."""
    return {key: value for key, value in read_tensors(path)[1].items() if key not in (CONFIG, ALPHA_TYPES)}


def file_format(path: Path | str) -> Format:
    """The format of a LoRA file."""
    return detect(read_tensors(path)[0], path)


def write_lora(
    path: Path | str,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    form: Format = Format.MUSUBI,
) -> None:
    """Write a LoRA (keys of any format) as a file of `form`, atomically; the same content gives the same bytes.

    Raises UserError for what read_lora would refuse, and writes nothing then.
    """
    canonical = convert(weights, Format.MUSUBI, path)
    problems = Problems()
    check_updates(canonical, path, problems)
    problems.raise_if_any()
    extra: dict[str, str] = {}
    if form is Format.MUSUBI:
        canonical = _explicit_alpha(canonical)
    if form is Format.DIFFUSERS:
        alphas = {
            module: canonical.pop(spell_key(module, Part.ALPHA, Format.MUSUBI)) for module in _with_alpha(canonical)
        }
        extra = metadata_of_alphas(updates(convert(weights, Format.MUSUBI, path)), alphas)
    write_tensors(path, convert(canonical, form, path), {**(metadata or {}), **extra})


def _modules(weights: Mapping[str, Tensor]) -> dict[Module, None]:
    parsed = (parse_key(key, Format.MUSUBI) for key in weights)
    return {found[0]: None for found in parsed if found is not None}


def _with_alpha(weights: Mapping[str, Tensor]) -> list[Module]:
    return [module for module in _modules(weights) if spell_key(module, Part.ALPHA, Format.MUSUBI) in weights]


def _explicit_alpha(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With alpha = rank written out where there is none."""
    stated = {
        spell_key(module, Part.ALPHA, Format.MUSUBI): torch.tensor(float(update.rank), dtype=update.down.dtype)
        for module, update in updates(weights).items()
    }
    return {**weights, **{key: tensor for key, tensor in stated.items() if key not in weights}}
