"""Steps `prepare` and `train`: clips where there are none, their caches, and the training command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from musubi_ext.errors import UserError
from musubi_ext.orbits.config import DatasetConfig, load_dataset_config
from musubi_ext.pipeline import contents
from musubi_ext.pipeline.rendered import render_clips, write_dataset_config
from musubi_ext.pipeline.settings import POCKET, Layout, Settings
from musubi_ext.pipeline.training import train as run_trainer
from musubi_ext.pipeline.training import trained_in
from musubi_ext.promotion.base import base_folder

POCKET_FLAGS = {"learning_rate": "2e-3", "timestep_sampling": "shift", "discrete_flow_shift": "5"}


@dataclass(frozen=True)
class Pipeline:
    """One pipeline under way: what was asked for, the terminal, the runs in MLflow and the store that they are in."""

    options: Settings
    console: Console
    runs: Any
    uri: str

    @property
    def layout(self) -> Layout:
        """Its folder."""
        return self.options.layout


def training_words(settings: Settings, uri: str, experiment: str) -> list[str]:
    """The training's flags; those of `train_flags` come last, and win."""
    flags: dict[str, object] = {
        "task": settings.task,
        "dataset_config": settings.dataset,
        "network_dim": settings.network_dim,
        "max_train_steps": settings.steps,
        "seed": settings.seed,
        "output_dir": settings.layout.pair,
        "output_name": settings.output_name,
        "resume": "auto",
        "mlflow_tracking_uri": uri,
        "mlflow_experiment": experiment,
    }
    if settings.task == POCKET:
        flags |= {"network_alpha": settings.network_dim, **POCKET_FLAGS}
        if settings.base != POCKET:
            base = Path(settings.base)
            flags |= {"dit": base / "transformer_2", "dit_high_noise": base / "transformer", "vae": base, "t5": base}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [*words, *(["--parallel_experts"] if settings.task == POCKET else []), *settings.more_flags]


def render(work: Pipeline) -> None:
    """Clips for the pocket, and their TOML."""
    from musubi_ext.evaluation.flow import cores
    from musubi_ext.worker_pool import outlive

    def spread(function: Callable[[Any], Any], jobs: Sequence[Any]) -> None:
        for _ in outlive(jobs, function, min(cores(), len(jobs)), died=_died):
            pass

    layout = work.layout
    render_clips(layout.clips, work.options.clips, spread)
    write_dataset_config(layout.dataset, layout.clips, layout.cache)


def prepare(work: Pipeline) -> Mapping[str, Any]:
    """Latents and text embeddings of every clip. Raises UserError for a wrong flag of the training, and when a clip was
    left out."""
    from musubi_ext.hosts import choice

    settings = work.options
    args = choice.parse(training_words(settings, work.uri, work.runs.experiment))
    config = load_dataset_config(settings.dataset)
    if settings.task == POCKET:
        from musubi_ext.orbits.cache.write import cache_dataset

        summary = cache_dataset(config, base_folder(settings.base), console=work.console)
        if summary.bad:
            raise UserError([reason for _, reason in summary.bad])
    else:
        words = [sys.executable, "-m", "musubi_ext.orbits.cache", str(settings.dataset)]
        words += [word for flag in ("vae", "t5") for word in (f"--{flag}", str(getattr(args, flag)))]
        if status := subprocess.run(words, check=False).returncode:
            raise UserError(f"caching ended with status {status}: its own message is above")
    return {"files": _cached(config)}


def prepared(work: Pipeline, result: Mapping[str, Any]) -> bool:
    """Whether as many caches lie there as were left."""
    return _cached(load_dataset_config(work.options.dataset)) == result.get("files")


def train(work: Pipeline) -> Mapping[str, Any]:
    """Both experts, in a process of its own that goes on where a broken-off one was."""
    settings, layout = work.options, work.layout
    words = training_words(settings, work.uri, work.runs.experiment)
    run_trainer(words, layout.pair, settings.output_name, work.uri, work.runs)
    files = contents.pair(settings)
    if files is None:
        raise UserError(f"{layout.pair}: the training left no pair, which needs both experts (see train_flags)")
    run_id = trained_in(layout.pair / f"{settings.output_name}.pair.json")
    if run_id is not None:
        work.runs.tags({"pair.run": run_id})
    return {"pair": files}


def trained(work: Pipeline, result: Mapping[str, Any]) -> bool:
    """Whether the pair is the one that was left there."""
    return contents.pair(work.options) == result.get("pair")


def _cached(config: DatasetConfig) -> int:
    return sum(len(list(dataset.cache_directory.glob("*_wan*.safetensors"))) for dataset in config.datasets)


def _died(job: Any) -> None:
    raise UserError(f"rendering clips {job}: the process died (killed, or out of memory)")
