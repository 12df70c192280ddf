"""Stages `cache` and `train`: the training command that a user would give, on the clips that were rendered."""

from __future__ import annotations

import sys
from pathlib import Path

from musubi_ext.demo.options import EXPERIMENT, PAIR, POCKET, Layout, Options
from musubi_ext.demo.stages import Demo
from musubi_ext.errors import UserError
from musubi_ext.pipeline import rendered
from musubi_ext.pipeline import training as trainer
from musubi_ext.pocket.config import pipeline_path


def base_folder(options: Options) -> Path:
    """The pipeline that is trained and that makes the videos."""
    return pipeline_path() if options.base == POCKET else Path(options.base)


def write_dataset_config(layout: Layout) -> Path:
    """The data set's TOML, with absolute folders: the demo may be continued from another working directory."""
    rendered.write_dataset_config(layout.dataset, layout.clips, layout.cache)
    return layout.dataset


def cache(demo: Demo) -> None:
    """Latents and text embeddings of every clip, as training reads them. Raises UserError when a clip was left out."""
    from musubi_ext.orbits.cache.write import cache_dataset
    from musubi_ext.orbits.config import load_dataset_config

    config = load_dataset_config(write_dataset_config(demo.layout))
    summary = cache_dataset(config, base_folder(demo.options), console=demo.console)
    if summary.bad:
        raise UserError([reason for _, reason in summary.bad])


def train(demo: Demo) -> None:
    """Both experts side by side, in a process of its own. Raises UserError when training could not be finished."""
    words, layout = command(demo), demo.layout
    trainer.train(words[words.index(trainer.PROGRAM) + 1 :], layout.pair, PAIR, layout.tracking_uri, demo.runs)


def command(demo: Demo) -> list[str]:
    """The training's command line."""
    options, layout = demo.options, demo.layout
    flags = {
        "task": POCKET,
        "dataset_config": layout.dataset,
        "network_dim": options.rank,
        "network_alpha": options.rank,
        "learning_rate": 2e-3,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 5,
        "max_train_steps": options.steps,
        "seed": options.seed,
        "output_dir": layout.pair,
        "output_name": PAIR,
        "mlflow_tracking_uri": layout.tracking_uri,
        "mlflow_experiment": EXPERIMENT,
    }
    if options.base != POCKET:
        base = base_folder(options)
        flags |= {"dit": base / "transformer_2", "dit_high_noise": base / "transformer", "vae": base, "t5": base}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", trainer.PROGRAM, *words, "--parallel_experts"]
