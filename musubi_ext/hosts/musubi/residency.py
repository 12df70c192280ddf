"""Which expert is on the device while both are used in turn: the one being trained, or the other, read for a while.

At most one expert is read from its files at any time, and is freed before the next. The trained one waits for it in
main memory, unless its blocks are swapped, when most of it is there already.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from safetensors.torch import load_file
from torch import nn

from musubi_ext.hosts.musubi.importing import import_host_module


@dataclass(frozen=True, eq=False)
class Live:
    """The expert being trained: its model as the trainer holds it, the network applied to it."""

    transformer: Any


@dataclass(frozen=True)
class OnDisk:
    """The other expert: its weights, and its adapter if there is one yet."""

    dit: str
    adapter: Path | None


def use_expert(
    source: Live | OnDisk,
    others: Sequence[Live | OnDisk],
    trainer: Any,
    args: Namespace,
    accelerator: Any,
    act: Callable[[Any], None],
) -> None:
    """Call `act` with the expert's transformer, ready for inference; `others` give way on the device if they must.

    Afterwards, after an exception too, every live expert has the modes, the device and the block swap that it had.
    """
    if isinstance(source, Live):
        with for_inference(accelerator.unwrap_model(source.transformer)) as transformer:
            act(transformer)
        return
    live = [accelerator.unwrap_model(other.transformer) for other in others if isinstance(other, Live)]
    with _parked(live, args, accelerator.device):
        loaded = _load(trainer, args, accelerator, source)
        try:
            act(loaded)
        finally:
            if args.blocks_to_swap:
                loaded.offloader.set_forward_only(True)  # waits for the blocks on their way
            del loaded
            clear_device_cache(garbage_collection=True)  # model and network refer to each other


@contextmanager
def for_inference(model: Any) -> Iterator[Any]:
    """Evaluation mode and forward-only block swap; then, module by module, the mode that each one had.

    The network's modules are found by the forwards they put in place of the model's (networks/lora.py, `apply_to`):
    upstream's samples leave their dropout on.
    """
    owners = [getattr(vars(module).get("forward"), "__self__", None) for module in model.modules()]
    network = [part for owner in owners if isinstance(owner, nn.Module) for part in owner.modules()]
    modes = {module: module.training for module in (*model.modules(), *network)}
    model.switch_block_swap_for_inference()
    try:
        for module in modes:
            module.training = False
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
        model.switch_block_swap_for_training()


@contextmanager
def _parked(models: Sequence[nn.Module], args: Namespace, device: torch.device) -> Iterator[None]:
    """Leave the device to another model. Swapped blocks keep their own places; compiled code may hold addresses."""
    movable = [] if args.blocks_to_swap or args.compile else models
    try:
        for model in movable:
            model.to("cpu")
        clear_device_cache()
        yield
    finally:
        for model in movable:
            model.to(device)


def _load(trainer: Any, args: Namespace, accelerator: Any, source: OnDisk) -> Any:
    """The expert as the trainer itself loads it (trainer_base.py, `_load_dit_and_swap`), with its adapter applied."""
    own = Namespace(**{**vars(args), "dit": source.dit})
    model = trainer._load_dit_and_swap(own, accelerator, _weight_dtype(args))
    short = args.network_module.startswith("networks.")  # upstream's short names, for which it extends sys.path
    network_module = import_module(f"musubi_tuner.{args.network_module}" if short else args.network_module)
    _merge_base_weights(trainer, args, model, network_module)
    if source.adapter is not None:
        weights = load_file(source.adapter)
        network = network_module.create_arch_network_from_weights(1.0, weights, unet=model)
        network.apply_to(None, model, apply_text_encoder=False, apply_unet=True)
        network.load_state_dict(weights)
        network.to(accelerator.device).eval().requires_grad_(False)
    model.switch_block_swap_for_inference()
    return model.eval()


def _merge_base_weights(trainer: Any, args: Namespace, model: Any, network_module: Any) -> None:
    """`--base_weights` belong to the base of either expert (trainer_base.py, `_build_network`)."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(args.mixed_precision, torch.float32)
    multipliers = args.base_weights_multiplier or []
    for index, path in enumerate(args.base_weights or []):
        weights = trainer.convert_weight_keys(load_file(path), network_module)
        multiplier = multipliers[index] if index < len(multipliers) else 1.0
        base = network_module.create_arch_network_from_weights(multiplier, weights, unet=model, for_inference=True)
        base.merge_to(None, model, weights, dtype, "cpu")


def _weight_dtype(args: Namespace) -> torch.dtype | None:
    """As `_prepare_accelerator_and_dtypes` has it; None leaves the weights to the fp8 scaling."""
    if args.fp8_base:
        return None if args.fp8_scaled else torch.float8_e4m3fn
    dtype: torch.dtype = import_host_module("musubi_tuner.utils.model_utils").str_to_dtype(args.dit_dtype)
    return dtype
