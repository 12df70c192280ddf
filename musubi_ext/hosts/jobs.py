"""What a checked command comes to: a plan, with a job per expert."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from musubi_ext.hosts.base_weights import fingerprint
from musubi_ext.hosts.checkpoints import last_name, run_settings
from musubi_ext.orbits.config import DatasetConfig
from musubi_ext.schedule.experts import Expert, Task
from musubi_ext.schedule.plan import Phase

POCKET, MUSUBI = "pocket", "musubi"  # the hosts


@dataclass(frozen=True)
class Job:
    """One expert's training: its phase, and arguments that are its own (`dit`, `t5` and `output_name` resolved)."""

    phase: Phase
    args: Namespace
    data: DatasetConfig
    host: str = POCKET
    processes: int = 1  # that train it together

    @property
    def expert(self) -> Expert:
        """Whose adapter this makes."""
        return self.phase.expert

    @property
    def path(self) -> Path:
        """The finished adapter."""
        return Path(self.args.output_dir) / last_name(self.phase.output_name)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the adapter depends on. Reads the base's weights and the caches: ask for it once they are there."""
        return run_settings(self.args, self.phase, self.data, fingerprint(Path(self.args.dit)), self.processes)


@dataclass(frozen=True)
class Plan:
    """A checked command: what to train and with what."""

    args: Namespace
    task: Task
    name: str  # of the pair
    data: DatasetConfig
    pipeline: Path | None  # folder of the VAE and the text encoder that cache clips here; None: they are cached already
    jobs: tuple[Job, ...]
    host: str = POCKET
    host_version: str | None = None  # of musubi-tuner, with its commit
