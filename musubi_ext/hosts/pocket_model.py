"""The pocket host's model: a diffusers Wan transformer with peft LoRA on it, and where its parts lie on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from musubi_ext.adapters.formats import Format, convert
from musubi_ext.errors import UserError
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import sha256

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")  # q, k, v, o, ffn of every block
WAN_TEXT_TOKENS = 512  # what a tokenizer without a limit stands for
_ADAPTER = "default"  # peft's own name


def transformer_folder(path: Path | str, expert: Expert) -> Path:
    """A transformer's folder as it is, or the expert's in a pipeline folder. Raises UserError when it is neither."""
    path = Path(path)
    for folder in (path, path / expert.component):
        if (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
            return folder
    flag = "--dit_high_noise" if expert is Expert.HIGH else "--dit"
    raise UserError(f"{flag} {path}: expected a folder of a diffusers transformer or pipeline, found neither")


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 over a model folder's configuration and weights."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()


def text_tokens(pipeline: Path) -> int:
    """Length to which text states are padded, as in generation: the tokenizer's own limit, 512 at most."""
    config = json.loads((pipeline / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    return int(min(config.get("model_max_length", WAN_TEXT_TOKENS), WAN_TEXT_TOKENS))


def load_expert(folder: Path, device: torch.device) -> Any:
    """The frozen expert of a transformer folder, in float32."""
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32)
    return model.requires_grad_(False).eval().to(device)


def add_lora(transformer: Any, rank: int, alpha: float) -> None:
    """LoRA on all ten linears of every block: down Kaiming-uniform (a = √5), up 0, scale alpha / rank.

    musubi-tuner's `networks/lora.py`; alpha 0 stands for the rank there too. Draws from torch's global generator.
    """
    from peft import LoraConfig

    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(TARGETS), init_lora_weights=True)
    transformer.add_adapter(config, adapter_name=_ADAPTER)


def lora_layers(transformer: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Parameter, float]]:
    """(module path, down (rank, in), up (out, rank), alpha) of every adapted linear, in the model's order."""
    for name, module in transformer.named_modules():
        if hasattr(module, "lora_A") and _ADAPTER in module.lora_A:
            down, up = module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
            yield name, down, up, float(module.lora_alpha[_ADAPTER])


def lora_state(transformer: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The adapter in musubi-tuner's keys: lora_down.weight, lora_up.weight and alpha of each layer, on the CPU."""
    state: dict[str, Tensor] = {}
    for name, down, up, alpha in lora_layers(transformer):
        path = Format.DIFFUSERS.prefix + name
        state[f"{path}.lora_A.weight"] = down.detach().to("cpu", dtype, copy=True)
        state[f"{path}.lora_B.weight"] = up.detach().to("cpu", dtype, copy=True)
        state[f"{path}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return convert(state, Format.MUSUBI)


def pad_text(states: list[Tensor], length: int) -> Tensor:
    """B text states (L, D) → (B, length, D), zeros behind each, as Wan pads; longer ones are cut."""
    padded = states[0].new_zeros(len(states), length, states[0].shape[1])
    for row, state in zip(padded, states, strict=True):
        row[: len(state)] = state[:length]
    return padded
