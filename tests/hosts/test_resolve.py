"""What is checked before anything is loaded, and which folders the defaults stand for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from musubi_ext.errors import UserError
from musubi_ext.hosts.arguments import parse
from musubi_ext.hosts.resolve import Plan, resolve

Arguments = Callable[..., list[str]]


def plan(words: list[str]) -> Plan:
    return resolve(parse(words))


def problem(words: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        plan(words)
    (found,) = caught.value.problems
    return found


def test_a_pipeline_folder_gives_every_part(argv: Arguments, tiny_pipeline: Path) -> None:
    found = plan(argv())
    assert [job.args.dit for job in found.jobs] == [
        str(tiny_pipeline / "transformer"),
        str(tiny_pipeline / "transformer_2"),
    ]
    assert found.pipeline == tiny_pipeline
    assert [job.path.name for job in found.jobs] == ["orbit_h.safetensors", "orbit_l.safetensors"]


def test_parts_can_be_named_one_by_one(argv: Arguments, tiny_pipeline: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(tiny_pipeline / "transformer_2", own)
    words = argv("--dit", str(own), "--dit_high_noise", str(tiny_pipeline), "--vae", str(tiny_pipeline / "vae"))
    assert [job.args.dit for job in plan(words).jobs] == [str(tiny_pipeline / "transformer"), str(own)]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--vae {tmp}", "--vae"),
        ("--vae {tmp}/a --t5 {tmp}/b", "one pipeline folder, found two"),
        ("--dit_high_noise {tmp}", "found neither"),
        ("--mixed_precision fp16", "CUDA device"),
        ("--optimizer_type adamw8bit", "8-bit optimizers need a CUDA device"),
        ("--optimizer_type AdamX", "did you mean"),
        ("--optimizer_type nowhere.Adam", "cannot import nowhere"),
        ("--optimizer_type torch.optim.lr_scheduler", "expected an optimizer"),
        ("--optimizer_type adafactor", "relative_step=False"),
        ("--optimizer_args weight_deca=0.1", "did you mean weight_decay?"),
        ("--optimizer_args weight_decay", "expected key=value"),
        ("--lr_scheduler cosin", "expected one of"),
        ("--lr_warmup_steps 10", "constant_with_warmup"),
        ("--network_module networks.loha", "networks.lora_wan"),
        ("--network_args loraplus_ratio=4", "did you mean loraplus_lr_ratio?"),
        ("--weighting_scheme mode", "changes only --timestep_sampling sigma"),
        ("--timestep_sampling sigma", "refused"),
        ("--timestep_sampling sigmoids", "--timestep_sampling"),
        ("--timestep_boundary 0.875", "--confirm_boundary"),
        ("--full_range --min_timestep 5", "contradicts"),
        ("--experts high --max_timestep 800", "--max_timestep"),
        ("--learning_rate nan", "--learning_rate"),
        ("--gradient_accumulation_steps 0", "expected at least 1"),
        ("--save_every_n_steps 0", "expected at least 1"),
        ("--max_train_steps 0", "expected at least 1"),
        ("--seed 4294967296", "--seed"),
        ("--pair_name a/b", "file name"),
    ],
)
def test_each_mistake_has_one_sentence(
    argv: Arguments, tiny_pipeline: Path, tmp_path: Path, flags: str, expected: str
) -> None:
    if torch.cuda.is_available() and "CUDA" in expected:
        pytest.skip("this machine has the device whose absence is tested")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text("{}")
    assert expected in problem(argv(*flags.format(tmp=tmp_path).split()))


def test_several_processes_are_refused(argv: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--num_processes 1" in problem(argv())


def test_everything_is_reported_at_once(argv: Arguments, tmp_path: Path) -> None:
    words = argv("--network_dim", "0", "--lr_scheduler", "x", "--dataset_config", "none.toml", "--vae", str(tmp_path))
    with pytest.raises(UserError) as caught:
        plan(words)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("value", ["0.875", "875"])
def test_another_boundary_must_be_asked_for_twice(argv: Arguments, value: str) -> None:
    high, low = plan(argv("--timestep_boundary", value, "--confirm_boundary", "0.875")).jobs
    assert (low.phase.high, high.phase.low) == (0.875, 0.875)


def test_an_adafactor_with_a_rate_of_its_own_is_understood(argv: Arguments) -> None:
    plan(argv("--optimizer_type", "AdaFactor", "--optimizer_args", "relative_step=False", "scale_parameter=False"))
