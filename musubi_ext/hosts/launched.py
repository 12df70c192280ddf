"""The processes of one `accelerate launch`: which of them writes and shows, and how they wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the one that writes, shows and tracks."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """The main process runs the block, then the others, who find its files there."""
    if processes() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield


def end_processes() -> None:
    """Leave the process group, once, after the last phase (upstream leaves it after each)."""
    if processes() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()
