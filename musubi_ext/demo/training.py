"""Stages `cache` and `train`: the training command that a user would give, on the clips that were rendered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from musubi_ext.demo.options import EXPERIMENT, PAIR, POCKET, Layout, Options
from musubi_ext.demo.stages import Demo
from musubi_ext.errors import UserError
from musubi_ext.pocket.config import pipeline_path
from musubi_ext.storage import write_text

GRACE = 20.0  # seconds that an interrupted training has to remove temporary files and close its runs
INTERRUPTED = 130  # status with which musubi_ext.wan_train_network says so

# dataset_toml/pocket.toml, whose comments explain each line, with the folders of this demo
_DATASET = """\
[general]
resolution = [64, 64]
enable_bucket = false
caption_extension = ".txt"
batch_size = 8
num_repeats = 1

[[datasets]]
video_directory = {clips}
cache_directory = {cache}
target_frames = [17]
frame_extraction = "head"

[orbit]
condition = "first"
holdout = 0.1
mirror = false
"""


def base_folder(options: Options) -> Path:
    """The pipeline that is trained and that makes the videos."""
    return pipeline_path() if options.base == POCKET else Path(options.base)


def write_dataset_config(layout: Layout) -> Path:
    """The data set's TOML, with absolute folders: the demo may be continued from another working directory."""
    folders = {"clips": layout.clips, "cache": layout.cache}
    text = _DATASET.format(**{name: json.dumps(path.absolute().as_posix()) for name, path in folders.items()})
    write_text(layout.dataset, text)
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
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}  # of another store
    # In a session of its own Ctrl-C reaches it once, through us, and cannot break into its cleaning up.
    process = subprocess.Popen(command(demo), env=environment, start_new_session=True)
    try:
        status = process.wait()
    finally:
        _end(process)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise UserError(f"training ended with status {status}: its own message is above")


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
    return [sys.executable, "-m", "musubi_ext.wan_train_network", *words, "--parallel_experts"]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a training that still runs to stop, as Ctrl-C would, and see it out."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
