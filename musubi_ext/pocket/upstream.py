"""An expert under Wan's own names, the only ones musubi-tuner reads, from diffusers' names and back, bit for bit.

The names are those that diffusers' `scripts/convert_wan_to_diffusers.py` maps, one way. musubi-tuner builds every Wan
with a text embedding of 4096 inputs (`load_wan_model`, wan/modules/model.py), so a narrower one is filled up with
columns of zeros: text states filled up with zeros then give the same sums.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from musubi_ext.adapters.keys import LINEARS, MODULES
from musubi_ext.adapters.tensors import read_tensors, write_tensors
from musubi_ext.adapters.updates import listed
from musubi_ext.errors import Problems, UserError
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import sha256

TEXT_WIDTH = 4096  # of UMT5-XXL
TEXT_TOKENS = 512  # Wan's own; a tokenizer that says less is believed
WEIGHTS = "diffusion_pytorch_model.safetensors"
_BOTH, _WEIGHT = (".weight", ".bias"), (".weight",)
_TEXT_MATRIX = "text_embedding.0.weight"  # (dim, text width)

# Outside the blocks: (diffusers' name, Wan's own, the tensors of it).
OUTSIDE = (
    ("patch_embedding", "patch_embedding", _BOTH),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0", _BOTH),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2", _BOTH),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0", _BOTH),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2", _BOTH),
    ("condition_embedder.time_proj", "time_projection.1", _BOTH),
    ("proj_out", "head.head", _BOTH),
    ("scale_shift_table", "head.modulation", ("",)),  # (1, 2, dim)
)
# In every block, beside the ten linears that adapters know.
INSIDE = (
    *((MODULES[name], name, _BOTH) for name in LINEARS),
    ("attn1.norm_q", "self_attn.norm_q", _WEIGHT),
    ("attn1.norm_k", "self_attn.norm_k", _WEIGHT),
    ("attn2.norm_q", "cross_attn.norm_q", _WEIGHT),
    ("attn2.norm_k", "cross_attn.norm_k", _WEIGHT),
    ("norm2", "norm3", _BOTH),  # before cross attention; both count differently, the other two hold no weights
    ("scale_shift_table", "modulation", ("",)),  # (1, 6, dim)
)
# What musubi-tuner's WanModel takes for granted and no shape shows.
FIXED = {"patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads", "eps": 1e-6}


def to_upstream(state: Mapping[str, Tensor], text_dim: int = TEXT_WIDTH, where: object = "expert") -> dict[str, Tensor]:
    """A diffusers WanTransformer3DModel's tensors under Wan's own names, the text embedding `text_dim` inputs wide.

    Raises UserError listing every key that is unknown or missing, or for a text embedding that is wider already.
    """
    renamed = _rename(state, dict(_names(state)), where)
    matrix = renamed[_TEXT_MATRIX]
    if matrix.shape[1] > text_dim:
        raise UserError(f"{where}: its text embedding takes {matrix.shape[1]} inputs, expected at most {text_dim}")
    renamed[_TEXT_MATRIX] = widen(matrix, text_dim)
    return renamed


def from_upstream(state: Mapping[str, Tensor], text_dim: int, where: object = "expert") -> dict[str, Tensor]:
    """The other way, the text embedding cut back to its first `text_dim` inputs.

    Raises UserError listing every key that is unknown or missing, or where the inputs to be cut off are not zero.
    """
    renamed = _rename(state, {wan: ours for ours, wan in _names(state)}, where)
    key = "condition_embedder.text_embedder.linear_1.weight"
    matrix = renamed[key]
    if matrix.shape[1] < text_dim or matrix[:, text_dim:].any():
        found = f"{matrix.shape[1]} inputs of which the last {max(matrix.shape[1] - text_dim, 0)} are in use"
        raise UserError(f"{where}: expected a text embedding of {text_dim} inputs and zeros behind, found {found}")
    renamed[key] = matrix[:, :text_dim].contiguous()
    return renamed


def widen(tensor: Tensor, width: int) -> Tensor:
    """(N, D) → (N, width), zeros behind; the tensor itself where it is that wide. D is at most `width`."""
    missing = width - tensor.shape[1]
    return torch.cat([tensor, tensor.new_zeros(len(tensor), missing)], dim=1) if missing else tensor


def export_experts(pipeline: Path, folder: Path) -> dict[Expert, Path]:
    """Write `low.safetensors` and `high.safetensors`, float32, from a diffusers pipeline folder; the path of each.

    Metadata: num_heads, freq_dim, text_dim and text_tokens, which no shape shows, and the SHA-256 of what the file was
    made from; a file that has them is left as it is. Raises UserError for a pipeline that musubi-tuner cannot run.
    """
    problems = Problems()
    jobs = {expert: _metadata(pipeline, expert, problems) for expert in Expert}
    problems.raise_if_any()
    paths = {expert: folder / f"{expert.value}.safetensors" for expert in Expert}
    for expert, metadata in jobs.items():
        if _metadata_of(paths[expert]) != metadata:
            source = pipeline / expert.component / WEIGHTS
            state = {key: tensor.float() for key, tensor in read_tensors(source)[0].items()}
            write_tensors(paths[expert], to_upstream(state, where=source), metadata)
    return paths


def _names(state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """(diffusers' key, Wan's own) of every tensor of an expert with as many blocks as `state` has."""
    blocks = {match[1] for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    names = [(ours + end, wan + end) for ours, wan, ends in OUTSIDE for end in ends]
    for index in range(len(blocks)):
        prefix = f"blocks.{index}."
        names += [(prefix + ours + end, prefix + wan + end) for ours, wan, ends in INSIDE for end in ends]
    return names


def _rename(state: Mapping[str, Tensor], names: Mapping[str, str], where: object) -> dict[str, Tensor]:
    problems = Problems()
    if unknown := sorted(state.keys() - names.keys()):
        problems.add(where, f"unknown keys {listed(unknown)}", "expected the Wan2.2 image-to-video transformer")
    if missing := sorted(names.keys() - state.keys()):
        problems.add(where, f"missing keys {listed(missing)}")
    problems.raise_if_any()
    return {new: state[old] for old, new in names.items()}


def _metadata(pipeline: Path, expert: Expert, problems: Problems) -> dict[str, str]:
    """What the exported file says of itself; empty, and a problem noted, where the pipeline lacks a part."""
    folder = pipeline / expert.component
    parts = [folder / "config.json", folder / WEIGHTS, pipeline / "tokenizer" / "tokenizer_config.json"]
    if absent := [part for part in parts if not part.is_file()]:
        problems.add(pipeline, f"expected a Wan2.2 pipeline folder, found no {listed([str(part) for part in absent])}")
        return {}
    config, tokenizer = _read_json(parts[0]), _read_json(parts[2])
    for key, value in FIXED.items():
        if config.get(key) != value:
            problems.add(parts[0], f"{key}: expected {value}, as musubi-tuner's Wan has it, found {config.get(key)}")
    digest = hashlib.sha256("".join(f"{part.name} {sha256(part)}\n" for part in parts).encode())
    return {
        "num_heads": str(config.get("num_attention_heads")),
        "freq_dim": str(config.get("freq_dim")),
        "text_dim": str(config.get("text_dim")),
        "text_tokens": str(int(min(tokenizer.get("model_max_length", TEXT_TOKENS), TEXT_TOKENS))),
        "source_sha256": digest.hexdigest(),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    return document


def _metadata_of(path: Path) -> dict[str, str] | None:
    """Of an exported file; None where it is absent or damaged, so that it is written anew."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (FileNotFoundError, SafetensorError):
        return None
