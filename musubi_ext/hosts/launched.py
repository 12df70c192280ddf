"""The processes of one launch: which of them writes and shows, how they start together and wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from musubi_ext.errors import UserError


def processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the one that writes, shows and tracks."""
    return int(os.environ.get("RANK", "0")) == 0


def visible_devices() -> list[str]:
    """The CUDA devices of this process as `CUDA_VISIBLE_DEVICES` names them; none on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def processes_per_expert(experts: int, *, side_by_side: bool) -> int:
    """How many train one expert together; side by side, the devices are divided among the experts.

    Raises UserError where they cannot be: fewer devices than experts, or a launch of several processes.
    """
    if not side_by_side or experts < 2:
        return processes()
    if processes() > 1:
        raise UserError("--parallel_experts: starts its own processes (launch it with --num_processes 1)")
    devices = len(visible_devices())
    if devices == 1:
        raise UserError(
            "--parallel_experts: needs two devices, found one (leave it out: the experts are then trained in turn)"
        )
    return max(1, devices // experts)


def check_launch() -> None:
    """Raises UserError where `accelerate launch` was asked for several processes and, without GPUs, started one.

    It then sets the address of the main process for processes that never come, and says nothing.
    """
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise UserError(
            "accelerate launch: several processes were asked for, one was started, since there is no GPU (use "
            "`torchrun --nproc_per_node N -m musubi_ext.wan_train_network …`, or --num_processes 1)"
        )


@contextmanager
def main_process_first() -> Iterator[None]:
    """The main process runs the block, then the others, who find its files there."""
    if processes() == 1:
        yield
        return
    with _group().main_process_first():
        yield


def end_processes() -> None:
    """Leave the process group, once, after the last phase (upstream leaves it after each)."""
    if processes() > 1:
        _group().destroy_process_group()


def _group() -> Any:
    """The process group that every Accelerator of this process will use. On a CPU it has to be asked for."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
