"""How three programs name the parts of a Wan LoRA.

| format   | used by          | example                                              |
|----------|------------------|------------------------------------------------------|
| musubi   | musubi-tuner     | lora_unet_blocks_0_self_attn_q.lora_down.weight      |
| diffusers| diffusers, peft  | transformer.blocks.0.attn1.to_q.lora_A.weight        |
| comfyui  | ComfyUI, LightX2V| diffusion_model.blocks.0.self_attn.q.lora_A.weight   |

The module table is diffusers' own (`lora_conversion_utils._convert_musubi_wan_lora_to_diffusers`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """A naming of the keys."""

    MUSUBI = "musubi"
    DIFFUSERS = "diffusers"
    COMFYUI = "comfyui"

    @property
    def prefix(self) -> str:
        """What every key starts with."""
        return {"musubi": "lora_unet_", "diffusers": "transformer.", "comfyui": "diffusion_model."}[self.value]


class Part(StrEnum):
    """One of the three tensors of a low-rank update W += (alpha/rank)·up @ down."""

    DOWN = "down"  # (rank, in)
    UP = "up"  # (out, rank)
    ALPHA = "alpha"  # scalar


# Module of a block: Wan's own name → diffusers' name.
MODULES: dict[str, str] = {
    **{
        f"self_attn.{wan}": f"attn1.{name}"
        for wan, name in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"), strict=True)
    },
    **{
        f"cross_attn.{wan}": f"attn2.{name}"
        for wan, name in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"), strict=True)
    },
    "cross_attn.k_img": "attn2.add_k_proj",  # Wan2.1 image-to-video only
    "cross_attn.v_img": "attn2.add_v_proj",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
LINEARS = tuple(module for module in MODULES if not module.endswith("_img"))  # the ten of every Wan2.2 block


@dataclass(frozen=True, order=True)
class Module:
    """A linear layer: block index and Wan's name inside the block, e.g. (0, "self_attn.q")."""

    block: int
    name: str

    @property
    def diffusers(self) -> str:
        """Its path in diffusers' WanTransformer3DModel: blocks.0.attn1.to_q."""
        return f"blocks.{self.block}.{MODULES[self.name]}"

    def path(self, form: Format) -> str:
        """Its path as the format writes it, prefix included."""
        wan = f"blocks.{self.block}.{self.name}"
        paths = {Format.MUSUBI: wan.replace(".", "_"), Format.DIFFUSERS: self.diffusers, Format.COMFYUI: wan}
        return form.prefix + paths[form]


_ENDINGS = {
    Format.MUSUBI: {"lora_down.weight": Part.DOWN, "lora_up.weight": Part.UP, "alpha": Part.ALPHA},
    Format.DIFFUSERS: {"lora_A.weight": Part.DOWN, "lora_B.weight": Part.UP, "alpha": Part.ALPHA},
    # ComfyUI reads lora_down/lora_up under its prefix as well; we write the first spelling.
    Format.COMFYUI: {
        "lora_A.weight": Part.DOWN,
        "lora_B.weight": Part.UP,
        "alpha": Part.ALPHA,
        "lora_down.weight": Part.DOWN,
        "lora_up.weight": Part.UP,
    },
}


def _pattern(form: Format) -> re.Pattern[str]:
    """Groups: block, module, ending."""
    spelled = {Module(0, name).path(form).removeprefix(form.prefix)[len("blocks.0.") :] for name in MODULES}
    modules = "|".join(re.escape(name) for name in sorted(spelled))
    endings = "|".join(re.escape(ending) for ending in _ENDINGS[form])
    dot = "_" if form is Format.MUSUBI else r"\."
    return re.compile(rf"{re.escape(form.prefix)}blocks{dot}(0|[1-9][0-9]{{0,3}}){dot}({modules})\.({endings})")


_PATTERNS = {form: _pattern(form) for form in Format}
_NAMES = {form: {Module(0, name).path(form).removeprefix(form.prefix)[9:]: name for name in MODULES} for form in Format}


def parse_key(key: str, form: Format) -> tuple[Module, Part] | None:
    """What a key of the format stands for; None if it is none of the tensors listed above."""
    match = _PATTERNS[form].fullmatch(key)
    if match is None:
        return None
    block, module, ending = match.groups()
    return Module(int(block), _NAMES[form][module]), _ENDINGS[form][ending]


def spell_key(module: Module, part: Part, form: Format) -> str:
    """The key of one tensor in a format."""
    ending = next(ending for ending, meaning in _ENDINGS[form].items() if meaning is part)
    return f"{module.path(form)}.{ending}"
