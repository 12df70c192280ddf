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
