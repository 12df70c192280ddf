"""One writer at a time in the cache folders of a data set."""

from __future__ import annotations

from contextlib import ExitStack

from rich.console import Console

from musubi_ext.locks import locked
from musubi_ext.orbits.config import DatasetConfig


def hold_folders(config: DatasetConfig, held: ExitStack, console: Console) -> None:
    """Lock every cache folder, waiting for another run to end; always in one order, so that no two wait for each other.

    Raises UserError when a folder cannot be made.
    """
    for folder in sorted({dataset.cache_directory.resolve() for dataset in config.datasets}):
        taken = f"{folder}: another run is writing caches there"

        def waiting(taken: str = taken) -> None:
            console.print(f"{taken}: waiting for it to end", highlight=False, markup=False, soft_wrap=True)

        held.enter_context(locked(folder, taken, waiting))
