"""What musubi-tuner gets wrong in training, shown on its own trainer, and ours beside it on the same experts and clips.

Faults of timesteps, boundary and conditioning are in test_upstream_faults_data.py.
"""

from __future__ import annotations

import argparse
import importlib.util
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from forward_passes import Pass, watched
from host_data import make_data, train_words
from PIL import Image
from torch import Tensor

from musubi_ext.adapters.files import read_lora
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.hosts.choice import parse, resolve
from musubi_ext.hosts.musubi.arguments import TENSORBOARD
from musubi_ext.hosts.musubi.pocket_task import PocketParts
from musubi_ext.hosts.musubi.trainer import trainer_class
from musubi_ext.schedule.experts import Expert
from musubi_ext.wan_train_network import main

HIGH, LOW = Expert.HIGH, Expert.LOW
EPOCH = 6  # batches of upstream's epoch: it has no hold-out
OURS = 5  # and of ours
Files = dict[Expert, Path]


class Recorder(GeneralTracker):  # type: ignore[misc]
    """A tracker of accelerate's that keeps what it is told, and whether it was ended."""

    name, requires_logging_directory, main_process_only = "recorder", False, True

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.ended = False

    @property
    def tracker(self) -> Recorder:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None, **options: Any) -> None:
        self.logged.append((step or 0, values))

    def finish(self) -> None:
        self.ended = True

    def steps(self, key: str) -> list[int]:
        return [step for step, values in self.logged if key in values]


@pytest.fixture(scope="module")
def data(host: ModuleType, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "set", tiny_pipeline)


@pytest.fixture
def upstream(
    host: ModuleType, host_args: Callable[..., Namespace], data: Path, tmp_path: Path
) -> Callable[..., tuple[Any, Namespace]]:
    """Upstream's trainer, as a class, and arguments that train it on the data."""

    def prepare(**flags: Any) -> tuple[Any, Namespace]:
        common = {"dataset_config": data / "plain.toml", "output_dir": tmp_path / "upstream", "output_name": "plain"}
        return host.WanNetworkTrainer, host_args(**common, **flags)

    return prepare


Upstream = Callable[..., tuple[Any, Namespace]]


@pytest.fixture
def ours(data: Path, tiny_pipeline: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """A command line of ours on the same clips."""
    return lambda *words: train_words(data, tiny_pipeline, tmp_path / "ours", *words)


Ours = Callable[..., list[str]]


def adapters(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def saves(trainer: type, tracker: Recorder) -> tuple[Any, list[tuple[str, bool]]]:
    """The trainer, noting with each file that it saves whether the tracker had ended."""
    found: list[tuple[str, bool]] = []

    class Noting(trainer):  # type: ignore[misc]
        def on_post_save(self, *args: Any) -> None:
            super().on_post_save(*args)
            found.append((args[4], tracker.ended))

    return Noting, found


def recorded(ours: Ours, *words: str) -> tuple[Recorder, list[tuple[str, bool]]]:
    """Train the low-noise expert by the extension with a tracker of accelerate's."""
    tracker = Recorder()
    (job,) = resolve(parse(ours("--experts", "low", *words))).jobs
    trainer, found = saves(trainer_class(job.args.task), tracker)
    trainer(job.phase, job.data).train(Namespace(**{**vars(job.args), "log_with": tracker}))
    return tracker, found


def test_two_experts_share_one_adapter(upstream: Upstream, ours: Ours, pocket_files: Files, tmp_path: Path) -> None:
    """Ours: an adapter for each, trained where its expert runs, and a manifest."""
    trainer, args = upstream(dit_high_noise=pocket_files[HIGH], max_train_steps=20)
    with watched(pocket_files) as passes:
        trainer().train(args)
    assert {one.expert for one in passes if one.trained} == {HIGH, LOW}
    assert adapters(tmp_path / "upstream") == ["plain.safetensors"]
    metadata = read_lora(tmp_path / "upstream" / "plain.safetensors").metadata
    assert not [key for key in metadata if any(word in key for word in ("expert", "boundary", "timestep_range"))]

    with watched(pocket_files) as passes:
        assert main(ours("--max_train_steps", "10")) == 0
    trained = [one for one in passes if one.trained]
    assert [one.expert for one in trained] == [HIGH] * 10 + [LOW] * 10
    assert all((one.t >= 0.9 - 1e-6) == (one.expert is HIGH) for one in trained)
    assert adapters(tmp_path / "ours") == ["orbit_h.safetensors", "orbit_l.safetensors"]
    experts = AdapterPair.load(tmp_path / "ours").manifest["experts"]
    assert [experts[name]["timestep_range"] for name in ("high", "low")] == [[0.9, 1.0], [0.0, 0.9]]


def test_a_resumed_training_starts_over(upstream: Upstream, ours: Ours, pocket_files: Files, tmp_path: Path) -> None:
    """Resumed after two of three epochs, upstream trains three more and overwrites the first two."""
    flags = {"max_train_epochs": 3, "save_every_n_epochs": 1, "save_state": True}
    trainer, args = upstream(**flags)
    trainer().train(args)
    folder = tmp_path / "upstream"
    before = {name: read_lora(folder / name).tensors for name in adapters(folder)}
    assert len(before) == 3
    trainer, args = upstream(**flags, resume=folder / "plain-000002-state")
    with watched(pocket_files) as passes:
        trainer().train(args)
    assert len(passes) == 3 * EPOCH  # where one epoch was left
    assert not [name for name in before if same(read_lora(folder / name).tensors, before[name])]
    assert read_lora(folder / "plain.safetensors").metadata["ss_steps"] == str(3 * EPOCH)  # and it was given 5 epochs

    def stop(one: Pass) -> None:
        if sum(each.trained for each in passes) > 2 * OURS:
            raise KeyboardInterrupt

    words = ours("--experts", "low", "--max_train_epochs", "3", "--save_every_n_epochs", "1", "--resume", "auto")
    with watched(pocket_files, before=stop) as passes:
        assert main(words) == 130
    kept = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "ours").glob("*.safetensors")}
    assert [path.name for path in sorted(kept)] == ["orbit_l-000001.safetensors", "orbit_l-000002.safetensors"]
    with watched(pocket_files) as passes:
        assert main(words) == 0
    assert sum(one.trained for one in passes) == OURS
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept} == kept
    assert read_lora(tmp_path / "ours" / "orbit_l.safetensors").metadata["ss_steps"] == str(3 * OURS)


def test_trackers_end_before_the_last_save(upstream: Upstream, ours: Ours) -> None:
    """What a hook would record of the finished adapter comes too late."""
    tracker = Recorder()
    trainer, args = upstream(max_train_steps=4, save_every_n_steps=2)
    noting, found = saves(trainer, tracker)
    args.log_with = tracker
    noting().train(args)
    assert found[-1] == ("plain.safetensors", True)
    assert [ended for _, ended in found[:-1]] == [False] * (len(found) - 1)

    tracker, found = recorded(ours, "--max_train_steps", "4", "--save_every_n_steps", "2")
    assert found[-1] == ("orbit_l.safetensors", False)
    assert tracker.ended


def test_no_validation_and_epochs_for_steps(upstream: Upstream, ours: Ours) -> None:
    """All else is logged by update, the loss of an epoch by epoch."""
    tracker = Recorder()
    trainer, args = upstream(max_train_epochs=2)
    args.log_with = tracker
    trainer().train(args)
    assert tracker.steps("loss/current") == list(range(1, 2 * EPOCH + 1))
    assert tracker.steps("loss/epoch") == [1, 2]
    assert not [key for _, values in tracker.logged for key in values if "val" in key]

    tracker, _ = recorded(ours, "--max_train_epochs", "2", "--validate_every_n_steps", "3")
    assert tracker.steps("loss/epoch") == [OURS, 2 * OURS]
    assert len({values["val/loss"] for _, values in tracker.logged if "val/loss" in values}) > 1


def test_samples_are_the_low_noise_expert_s(
    host: ModuleType, upstream: Upstream, ours: Ours, pocket_files: Files, tmp_path: Path
) -> None:
    """At every noise level, though both experts are there. Ours: each on its side of the boundary."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "first.png")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"a red car --w 32 --h 32 --f 5 --s 8 --d 1 --fs 5 --l 1 --i {tmp_path / 'first.png'}\n")
    trainer, args = upstream(
        dit_high_noise=pocket_files[HIGH], sample_prompts=prompts, sample_at_first=True, max_train_steps=1
    )
    with watched(pocket_files) as passes:
        type("Trainer", (PocketParts, trainer), {})().train(args)  # its VAE and text encoder, upstream's inference
    sampled = [one for one in passes if not one.trained]
    assert [one.expert for one in sampled] == [LOW] * 8
    assert sampled[0].t > 0.99  # where this expert never runs
    assert len(list((tmp_path / "upstream" / "sample").glob("*.mp4"))) == 1

    flags = ("--sample_prompts", str(prompts), "--preview_every_n_epochs", "1", "--preview_at_end", "off")
    with watched(pocket_files) as passes:
        assert main(ours("--experts", "low", "--max_train_epochs", "1", *flags)) == 0
    rendered = passes[-8:]
    assert not any(one.trained for one in rendered)
    assert {one.expert for one in rendered} == {HIGH, LOW}
    assert all((one.t >= 0.9) == (one.expert is HIGH) for one in rendered)
    assert len(list((tmp_path / "ours" / "previews").glob("*.mp4"))) == 1


def test_mlflow_is_refused(host: ModuleType, ours: Ours, capsys: pytest.CaptureFixture[str]) -> None:
    """Its parser knows tensorboard and wandb."""
    parser: argparse.ArgumentParser = host.wan_setup_parser(host.setup_parser_common())
    with pytest.raises(SystemExit):
        parser.parse_args(["--log_with", "mlflow"])
    assert "invalid choice: 'mlflow'" in capsys.readouterr().err
    words = ours("--log_with", "mlflow")
    words.remove("--no_mlflow")
    args = parse(words)
    assert (args.log_with, args.no_mlflow) == (None, False)  # to accelerate none, MLflow is ours


@pytest.mark.skipif(any(map(importlib.util.find_spec, TENSORBOARD)), reason="tensorboard is installed")
def test_logs_that_go_nowhere(upstream: Upstream, ours: Ours, tmp_path: Path) -> None:
    """`--logging_dir` without the package that writes there. Upstream trains to the end all the same;
    one line of accelerate's, among all others, says that there is no tracker.
    """
    trainer, args = upstream(max_train_steps=2, logging_dir=tmp_path / "logs")
    with pytest.warns(UserWarning, match="no supported trackers are currently installed"):
        trainer().train(args)
    assert adapters(tmp_path / "upstream") == ["plain.safetensors"]
    assert not (tmp_path / "logs").exists()
    with pytest.raises(UserError, match="--logging_dir: needs the tensorboard package, found none"):
        parse(ours("--logging_dir", str(tmp_path / "logs")))
