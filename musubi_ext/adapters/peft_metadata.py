"""Alpha in a diffusers file: not a tensor (its loader refuses keys without "lora") but the peft configuration.

diffusers writes and reads it as JSON under `lora_adapter_metadata` (`LoraBaseMixin._save_lora_weights`), with the rank
and alpha that hold for most modules and patterns for the rest. Beside it we note the type of each alpha tensor, which
the configuration has no room for; other programs pass over that note.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musubi_ext.adapters.keys import Format, Module, Part, spell_key
from musubi_ext.adapters.updates import Update
from musubi_ext.errors import UserError

CONFIG = "lora_adapter_metadata"
ALPHA_TYPES = "musubi_ext_alpha_types"  # module path → [dtype, shape] of each alpha tensor
_PREFIX = Format.DIFFUSERS.prefix


def peft_config(found: Mapping[Module, Update]) -> dict[str, Any]:
    """The peft LoraConfig of these updates, as diffusers spells it: every name with the prefix "transformer."."""
    ranks = {module.diffusers: update.rank for module, update in found.items()}
    alphas = {module.diffusers: update.alpha for module, update in found.items()}
    rank, alpha = _most_common(ranks), _most_common(alphas)
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(ranks),
    }
    return {_PREFIX + name: value for name, value in config.items()}


def metadata_of_alphas(found: Mapping[Module, Update], alphas: Mapping[Module, Tensor]) -> dict[str, str]:
    """What a diffusers file says of alpha, as safetensors metadata; `alphas` are the tensors that were explicit."""
    types = {
        module.diffusers: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        for module, tensor in sorted(alphas.items())
    }
    return {CONFIG: json.dumps(peft_config(found), sort_keys=True), ALPHA_TYPES: json.dumps(types, sort_keys=True)}


def alphas_from_metadata(path: Path | str, metadata: Mapping[str, str], modules: Iterable[Module]) -> dict[str, Tensor]:
    """The alpha tensors that the metadata of a diffusers file stands for, by diffusers key.

    Empty for a file without the configuration (alpha = rank). Raises UserError where the scale is not alpha/rank.
    """
    if CONFIG not in metadata:
        return {}
    config = _read(path, metadata[CONFIG], CONFIG)
    types = _read(path, metadata[ALPHA_TYPES], ALPHA_TYPES) if ALPHA_TYPES in metadata else None
    config = {name.removeprefix(_PREFIX): value for name, value in config.items()}
    for scheme in ("use_rslora", "use_dora"):
        if config.get(scheme):
            raise UserError(f"{path}: {scheme} is set; only plain LoRA, scaled by alpha/rank, can be converted")
    pattern = config.get("alpha_pattern") or {}
    found = {}
    for module in modules:
        if types is not None and module.diffusers not in types:
            continue  # had no alpha when it was written
        dtype, shape = types[module.diffusers] if types is not None else ("float32", [])
        value = pattern.get(module.diffusers, config.get("lora_alpha"))
        if not isinstance(value, (int, float)) or not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise UserError(f"{path}: metadata {CONFIG}: no alpha for {module.diffusers}")
        key = spell_key(module, Part.ALPHA, Format.DIFFUSERS)
        found[key] = torch.full(shape, value, dtype=getattr(torch, dtype))
    return found


def _read(path: Path | str, text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: metadata {name} is no JSON") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: metadata {name} is no JSON object")
    return value


def _most_common(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]
