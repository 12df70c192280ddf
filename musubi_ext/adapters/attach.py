"""A pair put into the two experts of a diffusers pipeline, and taken out again.

Alpha goes to peft as configuration, so the layers hold the file's own matrices and add
strength·(alpha/rank)·up @ down; diffusers' conversion would fold alpha/rank into them and round in half precision.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from musubi_ext.adapters.formats import convert
from musubi_ext.adapters.keys import Format, Module
from musubi_ext.adapters.manifest import transformer_shape
from musubi_ext.adapters.peft_metadata import peft_config
from musubi_ext.adapters.updates import Update, listed, updates
from musubi_ext.errors import Problems
from musubi_ext.schedule.experts import Expert

_COMPUTED_IN = (torch.float32, torch.float16, torch.bfloat16)  # of an expert; fp8 storage is no type for a LoRA


def attach(
    pipeline: Any,
    weights: Mapping[Expert, Mapping[str, Tensor]],
    strengths: Mapping[Expert, float],
    manifest: Mapping[str, Any],
    adapter_name: str,
) -> None:
    """Load both LoRAs (musubi keys) into their experts under one name, beside adapters that are active already.

    Raises UserError, and leaves the pipeline as it was, if anything does not fit or would have no effect.
    """
    found = {expert: updates(weights[expert]) for expert in Expert}
    problems = Problems()
    for expert in Expert:
        _check(pipeline, expert, found[expert], strengths[expert], manifest, adapter_name, problems)
    problems.raise_if_any()
    with ExitStack() as undo:
        undo.callback(detach, pipeline, adapter_name)
        for expert in Expert:
            model = getattr(pipeline, expert.component)
            others = _active(model)
            _load(pipeline, expert, weights[expert], found[expert], adapter_name)
            layers = _activate(model, others, adapter_name, strengths[expert])
            _check_loaded(found[expert], layers, manifest, expert)
        undo.pop_all()


def detach(pipeline: Any, adapter_name: str) -> None:
    """Take the adapter out of both experts, if it is there; without any other adapter the plain layers are back."""
    for expert in Expert:
        model: Any = getattr(pipeline, expert.component, None)
        if adapter_name in getattr(model, "peft_config", {}):
            model.delete_adapters(adapter_name)
            if not getattr(model, "peft_config", None):
                model.unload_lora()


def _check(
    pipeline: Any,
    expert: Expert,
    found: Mapping[Module, Update],
    strength: float,
    manifest: Mapping[str, Any],
    adapter_name: str,
    problems: Problems,
) -> None:
    where = f"pair {manifest['name']}, {expert.value}-noise expert"
    model = getattr(pipeline, expert.component, None)
    if not math.isfinite(strength):
        problems.add(where, f"strength {strength} is no number")
    if model is None:
        problems.add(where, f"the pipeline has no {expert.component}", "a Wan2.2 pipeline has two experts")
        return
    if adapter_name in getattr(model, "peft_config", {}):
        problems.add(where, f"an adapter named {adapter_name} is loaded already", "remove it, or use another name")
    if not any(update.has_effect() for update in found.values()):
        problems.add(where, "every update is zero, so it has no effect", "was it saved before it was trained?")
    _check_base(pipeline, model, found, manifest, where, problems)


def _check_base(
    pipeline: Any,
    model: nn.Module,
    found: Mapping[Module, Update],
    manifest: Mapping[str, Any],
    where: str,
    problems: Problems,
) -> None:
    """The manifest's transformer against the pipeline's, then every matrix against its layer."""
    actual = transformer_shape(model.config)  # type: ignore[arg-type]
    expected = {name: size for name, size in manifest["transformer"].items() if name in actual}
    layers = dict(_linears(model))
    wrong = [
        f"{module.diffusers} {_found(layers.get(module.diffusers))}, the pair's is {update.shape}"
        for module, update in found.items()
        if not _fits(layers.get(module.diffusers), update)
    ]
    if any(actual[name] != size for name, size in expected.items()) or wrong:
        base = Path(str(getattr(pipeline.config, "_name_or_path", "") or "this pipeline")).name
        told = f"expected {manifest['train_base']} ({_sizes(expected)}), found {base} ({_sizes(actual)})"
        problems.add(where, f"wrong base: {told}" + (f"; layers that do not fit: {listed(wrong)}" if wrong else ""))


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers by their plain path, whether or not another adapter wraps them."""
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield name, layer.get_base_layer()
        elif isinstance(layer, nn.Linear):
            yield name, layer


def _fits(layer: nn.Module | None, update: Update) -> bool:
    return isinstance(layer, nn.Linear) and (layer.out_features, layer.in_features) == update.shape


def _found(layer: nn.Module | None) -> str:
    return f"is {(layer.out_features, layer.in_features)}" if isinstance(layer, nn.Linear) else "is missing"


def _sizes(shape: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in shape.items()) or "shape unknown"


def _load(
    pipeline: Any, expert: Expert, weights: Mapping[str, Tensor], found: Mapping[Module, Update], adapter_name: str
) -> None:
    model = getattr(pipeline, expert.component)
    device, dtype = model.device, model.dtype if model.dtype in _COMPUTED_IN else None  # each walks the whole model
    matrices = {key: tensor for key, tensor in convert(weights, Format.DIFFUSERS).items() if not key.endswith(".alpha")}
    with warnings.catch_warnings():
        # An adapter beside another one is what was asked for.
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        pipeline.load_lora_into_transformer(
            {key: tensor.to(device, dtype, copy=True) for key, tensor in matrices.items()},
            transformer=model,
            adapter_name=adapter_name,
            metadata=peft_config(found),
            _pipeline=pipeline,
            low_cpu_mem_usage=True,  # else peft fills the matrices with random numbers first, from the global generator
        )


def _active(model: nn.Module) -> dict[str, list[str]]:
    """The adapters that are switched on, by layer."""
    return {
        name: list(layer.active_adapters) for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)
    }


def _activate(model: nn.Module, others: Mapping[str, list[str]], adapter_name: str, strength: float) -> set[str]:
    """Switch the adapter on beside the others, which loading it switched off. Returns the paths of its layers."""
    adapted = set()
    for name, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        own = adapter_name in layer.lora_A
        layer.set_adapter([*others.get(name, []), *([adapter_name] if own else [])], inference_mode=True)
        if own:
            layer.set_scale(adapter_name, strength)
            adapted.add(name)
    return adapted


def _check_loaded(
    found: Mapping[Module, Update], layers: set[str], manifest: Mapping[str, Any], expert: Expert
) -> None:
    """Every update has its layer and no other layer was touched: diffusers only logs what it passed over."""
    problems = Problems()
    where = f"pair {manifest['name']}, {expert.value}-noise expert"
    expected = {module.diffusers for module in found}
    if missing := sorted(expected - layers):
        problems.add(where, f"not loaded: {listed(missing)}")
    if extra := sorted(layers - expected):
        problems.add(where, f"loaded into layers it does not name: {listed(extra)}")
    problems.raise_if_any()
