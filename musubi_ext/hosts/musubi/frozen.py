"""Several processes on a CPU: accelerate wraps every module in DDP there, and DDP refuses one that is all frozen.

On GPUs accelerate itself leaves such a module as it is (`Accelerator.prepare_model`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import DistributedType
from torch import nn


@contextmanager
def frozen_modules_unwrapped(accelerator: Any) -> Iterator[None]:
    """Within the block `accelerator.prepare` moves a frozen module to its device and does no more."""
    if accelerator.distributed_type != DistributedType.MULTI_CPU:
        yield
        return
    original = accelerator.prepare

    def prepare(*objects: Any, device_placement: list[bool] | None = None) -> Any:
        if len(objects) == 1 and _is_frozen(objects[0]):
            place = device_placement[0] if device_placement else None
            return accelerator.prepare_model(objects[0], device_placement=place, evaluation_mode=True)
        return original(*objects, device_placement=device_placement)

    accelerator.prepare = prepare
    try:
        yield
    finally:
        del accelerator.prepare  # the method of the class again


def _is_frozen(module: Any) -> bool:
    return isinstance(module, nn.Module) and not any(parameter.requires_grad for parameter in module.parameters())
