"""NAME.pair.json: what a pair is, what it was trained on and how to use it (DESIGN decision 4).

| key                 | value                                                                                        |
|---------------------|----------------------------------------------------------------------------------------------|
| schema              | 1                                                                                            |
| name, task          | of the pair; of experts.TASKS                                                                |
| boundary            | t at which the high-noise expert hands over                                                  |
| train_base          | the base it was trained on, by repository name; serve_base: the one it is meant to run on    |
| transformer         | shape of an expert: dim, layers, heads, ffn_dim, in_channels (those that are known)          |
| experts.{high,low}  | file, sha256, rank, alpha, modules, dtype, steps, timestep_range [t, t]                      |
| inference           | shift, steps, cfg, strength_high, strength_low, frames, fps, size (those that are known)     |
| dataset_fingerprint | SHA-256 of the training data; training: arguments and versions; evaluation: its summary      |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from musubi_ext.adapters.keys import LINEARS, Module
from musubi_ext.adapters.updates import Update, main_dtype, one_or_all, updates
from musubi_ext.errors import Problems, UserError
from musubi_ext.schedule.experts import TASKS, Expert, timestep_range

SCHEMA = 1
SUFFIX = ".pair.json"
SHAPE = ("dim", "layers", "heads", "ffn_dim", "in_channels")
_REQUIRED = ("name", "task", "boundary", "train_base", "serve_base", "transformer", "experts")
_REQUIRED_EXPERT = ("file", "sha256", "rank", "alpha")
_LONGEST = 16 << 20  # bytes of a manifest; training arguments and an evaluation need a few kB


def transformer_shape(config: Mapping[str, Any]) -> dict[str, int]:
    """The shape of an expert, from the configuration of diffusers' WanTransformer3DModel."""
    heads = int(config["num_attention_heads"])
    return {
        "dim": heads * int(config["attention_head_dim"]),
        "layers": int(config["num_layers"]),
        "heads": heads,
        "ffn_dim": int(config["ffn_dim"]),
        "in_channels": int(config["in_channels"]),
    }


def shape_of_weights(found: Mapping[Module, Update]) -> dict[str, int]:
    """What a LoRA's own matrices tell of its transformer. Layers only if it adapts all ten linears of each."""
    shape: dict[str, int] = {}
    for module, update in found.items():
        if module.name in ("self_attn.q", "ffn.0"):
            shape["dim"] = update.down.shape[1]
        if module.name == "ffn.0":
            shape["ffn_dim"] = update.up.shape[0]
    layers = max(module.block for module in found) + 1
    if all(Module(block, name) in found for block in range(layers) for name in LINEARS):
        shape["layers"] = layers
    return shape


def expert_entry(weights: Mapping[str, Tensor], file: str, digest: str) -> dict[str, Any]:
    """The manifest's record of one file: what can be read off its tensors."""
    found = updates(weights)
    return {
        "file": file,
        "sha256": digest,
        "rank": one_or_all(update.rank for update in found.values()),
        "alpha": one_or_all(update.alpha for update in found.values()),
        "modules": len(found),
        "dtype": main_dtype(weights),
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, its structure and its claims checked. Raises UserError listing everything that is wrong."""
    try:
        if path.stat().st_size > _LONGEST:
            raise UserError(f"{path}: {path.stat().st_size} bytes, too long for a pair manifest")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file (a pair is NAME{SUFFIX} and two safetensors beside it)") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a pair manifest: no JSON ({error})") from error
    check_manifest(manifest, path)
    return dict(manifest)


def check_manifest(manifest: Any, path: Path) -> None:
    """Raises UserError listing every missing key and every claim that cannot be true."""
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise UserError(f"{path}: schema: expected {SCHEMA}, found {found} (made by another version of musubi-ext?)")
    problems = Problems()
    for key in _REQUIRED:
        if manifest.get(key) is None:
            problems.add(path, f"{key}: missing")
    _check_task(manifest, path, problems)
    experts = manifest.get("experts")
    for expert in Expert:
        entry = experts.get(expert.value) if isinstance(experts, dict) else None
        if isinstance(entry, dict):
            _check_entry(entry, expert, manifest.get("boundary"), path, problems)
        else:
            problems.add(path, f"experts.{expert.value}: missing", "a pair has two experts")
    entries = experts.values() if isinstance(experts, dict) else ()
    files = [entry.get("file") for entry in entries if isinstance(entry, dict)]
    if len(files) == 2 and files[0] == files[1]:
        problems.add(path, f"both experts name the file {files[0]}")
    problems.raise_if_any()


def _check_task(manifest: Mapping[str, Any], path: Path, problems: Problems) -> None:
    task = manifest.get("task")
    if task is not None and not (isinstance(task, str) and task in TASKS):
        problems.add(path, f"task: expected one of {', '.join(TASKS)}, found {task!r}")
    if manifest.get("boundary") is not None and not (_number(manifest["boundary"]) and 0 < manifest["boundary"] < 1):
        problems.add(path, f"boundary: expected a number between 0 and 1, found {manifest['boundary']!r}")
    shape = manifest.get("transformer")
    if shape is not None and not (isinstance(shape, dict) and all(isinstance(size, int) for size in shape.values())):
        problems.add(path, f"transformer: expected sizes by name ({', '.join(SHAPE)}), found {shape!r}")


def _check_entry(entry: Mapping[str, Any], expert: Expert, boundary: Any, path: Path, problems: Problems) -> None:
    where = f"experts.{expert.value}"
    for key in _REQUIRED_EXPERT:
        if entry.get(key) is None:
            problems.add(path, f"{where}.{key}: missing")
    file = entry.get("file")
    if file is not None and not (isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")):
        problems.add(
            path, f"{where}.file: expected the name of a .safetensors file beside the manifest, found {file!r}"
        )
    trained = entry.get("timestep_range")
    if trained is None or not (_number(boundary) and 0 < boundary < 1):
        return
    if not (isinstance(trained, list) and len(trained) == 2 and all(map(_number, trained)) and trained[0] < trained[1]):
        problems.add(path, f"{where}.timestep_range: expected [low, high] in t, found {trained!r}")
        return
    own = timestep_range(expert, boundary)
    if trained[1] <= own[0] or trained[0] >= own[1]:
        found = f"trained on t {trained[0]:g} to {trained[1]:g}, but this expert runs in {own[0]:g} to {own[1]:g}"
        problems.add(path, f"{where}: {found}", "are the two files swapped?")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
