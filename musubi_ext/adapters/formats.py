"""A LoRA of Wan in musubi-tuner's, diffusers' and ComfyUI's keys, converted without loss in any direction.

Converting renames and never rescales: every tensor of a round trip, alpha included, is the same to the last bit. A LoRA
without alpha means alpha = rank to every reader. In memory, a LoRA is a dict of tensors in musubi keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from musubi_ext.adapters.keys import Format, parse_key, spell_key
from musubi_ext.adapters.updates import listed
from musubi_ext.errors import Problems, UserError

__all__ = ["Format", "convert", "detect", "modules"]


def detect(keys: Iterable[str], where: object = "LoRA") -> Format:
    """The format of these keys, by prefix. Raises UserError for none, or for several at once."""
    keys = list(keys)
    counts = {form: sum(key.startswith(form.prefix) for key in keys) for form in Format}
    found = [form for form, count in counts.items() if count]
    if not found:
        known = ", ".join(form.prefix + "…" for form in Format)
        raise UserError(f"{where}: no LoRA of Wan: keys {listed(sorted(keys)) or '(none)'} (expected {known})")
    if len(found) > 1:
        mixed = ", ".join(f"{counts[form]} of {form.value}" for form in found)
        raise UserError(f"{where}: keys of several formats at once: {mixed} (convert the parts apart)")
    return found[0]


def convert(weights: Mapping[str, Tensor], to: Format, where: object = "LoRA") -> dict[str, Tensor]:
    """The same tensors under the keys of `to`. A diffusers dict has alpha as `….alpha`, a file elsewhere.

    Raises UserError naming the keys that are unknown, or that say the same as another one: nothing is dropped.
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


def modules(weights: Iterable[str]) -> list[str]:
    """The adapted linears of a LoRA in musubi keys: lora_unet_blocks_0_self_attn_q, … sorted by block."""
    found = {parsed[0] for key in weights if (parsed := parse_key(key, Format.MUSUBI))}
    return [module.path(Format.MUSUBI) for module in sorted(found)]
