"""`--extension off`: musubi-tuner's own `wan_train_network`, untouched, started from the same command line.

For comparison: whatever differs between the two is the extension's doing.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.hosts.musubi.pocket_task import TASK, register
from musubi_ext.schedule.experts import parse_boundary


def train_plain(args: Namespace) -> None:
    """What upstream's `main` does after parsing (wan_train_network.py). One run, one adapter, upstream's faults."""
    if args.task == TASK:
        register(Path(str(args.dit)))
    if args.timestep_boundary is not None:
        args.timestep_boundary = parse_boundary(args.timestep_boundary)
    import_host().WanNetworkTrainer().train(args)
