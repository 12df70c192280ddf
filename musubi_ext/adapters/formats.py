"""One LoRA in three spellings: musubi-tuner, diffusers and ComfyUI keys. Nothing is dropped, alpha is kept exactly.

| format       | key of block 0's self-attention query                       | alpha                                   |
|--------------|-------------------------------------------------------------|-----------------------------------------|
| musubi-tuner | `lora_unet_blocks_0_self_attn_q.lora_down.weight`           | `lora_unet_blocks_0_self_attn_q.alpha`  |
| ComfyUI      | `diffusion_model.blocks.0.self_attn.q.lora_A.weight`        | `diffusion_model.blocks.0.self_attn.q.alpha` |
| diffusers    | `transformer.blocks.0.attn1.to_q.lora_A.weight`             | file metadata, `lora_adapter_metadata`  |

diffusers refuses tensors without "lora" in their name, so there alpha stands where its own `save_lora_adapter` puts it and
its loader reads it. The effective update of a weight is (alpha / rank) · up · down. In memory, musubi-tuner's keys rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum

import torch
from torch import Tensor

from musubi_ext.errors import Problems

StateDict = dict[str, Tensor]

# musubi-tuner, ComfyUI, diffusers: every linear of a Wan block that an adapter may hold
_LINEARS = (
    *((f"self_attn_{x}", f"self_attn.{x}", f"attn1.to_{x}") for x in "qkv"),
    ("self_attn_o", "self_attn.o", "attn1.to_out.0"),
    *((f"cross_attn_{x}", f"cross_attn.{x}", f"attn2.to_{x}") for x in "qkv"),
    ("cross_attn_o", "cross_attn.o", "attn2.to_out.0"),
    ("cross_attn_k_img", "cross_attn.k_img", "attn2.add_k_proj"),  # Wan2.1 only
    ("cross_attn_v_img", "cross_attn.v_img", "attn2.add_v_proj"),
    ("ffn_0", "ffn.0", "ffn.net.0.proj"),
    ("ffn_2", "ffn.2", "ffn.net.2"),
)
_METADATA = "lora_adapter_metadata"  # diffusers.loaders.lora_base.LORA_ADAPTER_METADATA_KEY


class Format(str, Enum):
    """Who spells the keys so."""

    MUSUBI = "musubi"
    DIFFUSERS = "diffusers"
    COMFYUI = "comfyui"


# prefix, down, up and alpha endings, column of _LINEARS
_SPELLING = {
    Format.MUSUBI: ("lora_unet_blocks_{}_", ".lora_down.weight", ".lora_up.weight", 0),
    Format.COMFYUI: ("diffusion_model.blocks.{}.", ".lora_A.weight", ".lora_B.weight", 1),
    Format.DIFFUSERS: ("transformer.blocks.{}.", ".lora_A.weight", ".lora_B.weight", 2),
}
_BLOCK = {form: re.compile(re.escape(s[0]).replace(r"\{\}", r"(\d+)") + "(.+)") for form, s in _SPELLING.items()}


def detect(keys: Mapping[str, object] | list[str], where: object = "LoRA") -> Format:
    """The spelling that most keys follow. Raises UserError if none does."""
    counts = {form: sum(key.startswith(_SPELLING[form][0].split("{")[0]) for key in keys) for form in Format}
    best = max(counts, key=lambda form: counts[form])
    problems = Problems()
    if not counts[best]:
        first = ", ".join(list(keys)[:3]) or "no tensors at all"
        problems.add(where, f"expected musubi-tuner, diffusers or ComfyUI keys of a Wan LoRA, found {first}")
    problems.raise_if_any()
    return best


def to_musubi(tensors: StateDict, metadata: Mapping[str, str] | None = None, where: object = "LoRA") -> StateDict:
    """Any of the three spellings → musubi-tuner's. `metadata` is the file's (diffusers keeps alpha there).

    A ComfyUI or diffusers LoRA that names no alpha has alpha = rank, as both programs read it. Raises UserError that names
    every unknown key.
    """
    form = detect(tensors, where)
    _, down, up, column = _SPELLING[form]
    problems = Problems()
    result: StateDict = {}
    for key, tensor in tensors.items():
        module, ending = _split(key, form)
        name = _rename(module, form, Format.MUSUBI)
        if name is None or ending not in (down, up, ".alpha"):
            problems.add(where, f"unknown key {key}", f"a {form.value} LoRA of Wan blocks has none such")
            continue
        result[name + {down: ".lora_down.weight", up: ".lora_up.weight"}.get(ending, ending)] = tensor
    problems.raise_if_any()
    if form is not Format.MUSUBI:
        alphas = _alphas_in(metadata or {}) if form is Format.DIFFUSERS else {}
        for name in modules(result):
            module = _rename(name, Format.MUSUBI, form)
            rank = len(result[f"{name}.lora_down.weight"]) if f"{name}.lora_down.weight" in result else 1
            result.setdefault(f"{name}.alpha", torch.tensor(float(alphas.get(str(module), rank))))
    return dict(sorted(result.items()))


def from_musubi(tensors: StateDict, form: Format) -> tuple[StateDict, dict[str, str]]:
    """musubi-tuner's keys → another spelling, and the file metadata that belongs to it."""
    if form is Format.MUSUBI:
        return dict(sorted(tensors.items())), {}
    _, down, up, _ = _SPELLING[form]
    endings = {".lora_down.weight": down, ".lora_up.weight": up, ".alpha": ".alpha"}
    result: StateDict = {}
    alphas: dict[str, float] = {}
    ranks: dict[str, int] = {}
    for key, tensor in tensors.items():
        module, ending = _split(key, Format.MUSUBI)
        name = str(_rename(module, Format.MUSUBI, form))
        if form is Format.DIFFUSERS and ending == ".alpha":
            alphas[name.removeprefix("transformer.")] = tensor.item()
            continue
        if ending == ".lora_down.weight":
            ranks[name.removeprefix("transformer.")] = len(tensor)
        result[name + endings[ending]] = tensor
    metadata = {_METADATA: _peft_config(alphas, ranks)} if form is Format.DIFFUSERS else {}
    return dict(sorted(result.items())), metadata


def modules(tensors: Mapping[str, object]) -> list[str]:
    """Names of the adapted linears in musubi-tuner's spelling, sorted."""
    return sorted({key.split(".", 1)[0] for key in tensors})


def diffusers_module(name: str) -> str:
    """`lora_unet_blocks_0_self_attn_q` → `blocks.0.attn1.to_q`, the linear inside a `WanTransformer3DModel`."""
    return str(_rename(name, Format.MUSUBI, Format.DIFFUSERS)).removeprefix("transformer.")


def musubi_module(name: str) -> str:
    """`blocks.0.attn1.to_q` → `lora_unet_blocks_0_self_attn_q`."""
    return str(_rename(f"transformer.{name}", Format.DIFFUSERS, Format.MUSUBI))


def folded(tensors: StateDict) -> StateDict:
    """diffusers keys with alpha / rank multiplied into the down matrices: what `load_lora_weights` takes as a dict."""
    result, _ = from_musubi(tensors, Format.DIFFUSERS)
    for name in modules(tensors):
        key = f"transformer.{diffusers_module(name)}.lora_A.weight"
        result[key] = result[key] * (tensors[f"{name}.alpha"].item() / len(result[key]))
    return result


def _split(key: str, form: Format) -> tuple[str, str]:
    _, down, up, _ = _SPELLING[form]
    ending = next((end for end in (down, up, ".alpha") if key.endswith(end)), "")
    return key[: len(key) - len(ending)], ending


def _rename(module: str, old: Format, new: Format) -> str | None:
    match = _BLOCK[old].fullmatch(module)
    row = next((row for row in _LINEARS if match and row[_SPELLING[old][3]] == match[2]), None)
    return None if match is None or row is None else _SPELLING[new][0].format(match[1]) + row[_SPELLING[new][3]]


def _peft_config(alphas: dict[str, float], ranks: dict[str, int]) -> str:
    """A peft LoraConfig in diffusers' flat spelling: the commonest rank and alpha, and every module that differs."""
    rank = max(set(ranks.values()), key=list(ranks.values()).count)
    alpha = max(set(alphas.values()), key=list(alphas.values()).count)
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(ranks),
    }
    return json.dumps({f"transformer.{key}": value for key, value in config.items()}, sort_keys=True)


def _alphas_in(metadata: Mapping[str, str]) -> dict[str, float]:
    """Alpha per `transformer.`-prefixed module as a diffusers file's metadata states it; empty if it states none."""
    if _METADATA not in metadata:
        return {}
    config = json.loads(metadata[_METADATA])
    alphas = dict.fromkeys(config.get("transformer.target_modules", []), config["transformer.lora_alpha"])
    alphas |= config.get("transformer.alpha_pattern", {})
    return {f"transformer.{name}": float(value) for name, value in alphas.items()}
