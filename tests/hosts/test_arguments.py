"""The command line: musubi-tuner's flags, ours, and a sentence for each that cannot be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from musubi_ext.errors import UserError
from musubi_ext.hosts.arguments import build_parser, parse
from musubi_ext.hosts.refused import REFUSED

Arguments = Callable[..., list[str]]
# FIELD 2.1: Circle-Rotate's command, on the flags that the pocket model can follow
RECIPE = """
--sdpa --optimizer_type adamw --learning_rate 2e-4 --gradient_checkpointing --gradient_checkpointing_cpu_offload
--network_module networks.lora_wan --network_dim 32 --timestep_sampling shift --discrete_flow_shift 8.0
--max_train_epochs 100 --save_every_n_epochs 1 --seed 42 --full_range
"""
REST = """
--fp8_base --blocks_to_swap 30 --vae_cache_cpu --sample_prompts prompts.txt --log_with tensorboard
"""


def problems(words: list[str]) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        parse(words)
    return caught.value.problems


def test_the_recipe_is_understood(argv: Arguments) -> None:
    args = parse(argv(*RECIPE.split()))
    assert (args.learning_rate, args.network_dim, args.discrete_flow_shift) == (2e-4, 32, 8.0)
    assert (args.max_train_epochs, args.network_alpha, args.full_range) == (100, 1.0, True)


def test_what_the_pocket_model_cannot_do_is_refused_by_name(argv: Arguments) -> None:
    found = problems(argv(*RECIPE.split(), *REST.split()))
    assert [problem.split(":")[0] for problem in found] == [
        "--fp8_base",
        "--blocks_to_swap",
        "--vae_cache_cpu",
        "--log_with",
    ]
    assert all("(" in problem for problem in found)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_every_refused_flag_gives_a_reason(argv: Arguments, name: str) -> None:
    assert problems(argv(f"--{name}")) == (f"--{name}: not possible with task pocket-i2v ({REFUSED[name]})",)


def test_swapping_no_blocks_is_what_happens_anyway(argv: Arguments) -> None:
    parse(argv("--blocks_to_swap", "0"))


def test_unknown_flags_are_named_all_at_once_with_the_nearest(argv: Arguments) -> None:
    found = problems(argv("--learning_rte", "1", "--network_dims=4", "--fp8_base", "--qqqqqq"))
    assert "--learning_rte: unknown flag (did you mean --learning_rate?)" in found
    assert "--network_dims: unknown flag (did you mean --network_dim?)" in found
    assert "--qqqqqq: unknown flag (see --help)" in found
    assert any(problem.startswith("--fp8_base") for problem in found)


def test_required_flags_and_stray_words() -> None:
    found = problems(["stray"])
    assert [problem.split(":")[0] for problem in found] == [
        "stray",
        "--dataset_config",
        "--output_dir",
        "--output_name",
    ]


def test_a_wrong_value_is_reported_beside_unknown_flags(argv: Arguments) -> None:
    found = problems(argv("--seed", "many", "--sed", "1"))
    assert any("--sed: unknown flag" in problem for problem in found)
    assert any("--seed" in problem and "many" in problem for problem in found)


@pytest.mark.parametrize("task", ["i2v-A14B", "t2v-A14B"])
def test_other_tasks_need_the_other_host(argv: Arguments, task: str) -> None:
    (sentence,) = problems(argv(*REST.split(), "--task", task))
    assert "musubi-tuner host" in sentence
    assert task in sentence


def test_a_task_that_does_not_exist(argv: Arguments) -> None:
    (sentence,) = problems(argv("--task", "pocket"))
    assert "pocket-i2v" in sentence


def test_a_config_file_comes_first_and_the_command_line_wins(argv: Arguments, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        "seed = 7\n[network]\nnetwork_dim = 8\nnetwork_alpha = 2.0\n[other]\nsdpa = true\nfull_range = false\n"
        'optimizer_args = ["weight_decay=0.1", "eps=1e-6"]\n'
    )
    args = parse(argv("--config_file", str(config.with_suffix("")), "--seed", "8"))
    assert (args.seed, args.network_dim, args.network_alpha) == (8, 4, 2.0)  # argv itself says --network_dim 4
    assert (args.sdpa, args.full_range) == (True, False)
    assert args.optimizer_args == ["weight_decay=0.1", "eps=1e-6"]


@pytest.mark.parametrize(
    ("text", "words"), [("sed = 1\n", "did you mean --seed?"), ("fp8_base = true\n", "--fp8_base"), ("x", "TOML")]
)
def test_mistakes_in_a_config_file(argv: Arguments, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    assert words in " ".join(problems(argv("--config_file", str(tmp_path / "run.toml"))))


def test_a_missing_config_file(argv: Arguments) -> None:
    assert "found nothing" in problems(argv("--config_file", "none"))[0]


@pytest.mark.parametrize(("text", "value"), [("100", 100), ("0.1", 0.1), ("10%", 0.1), ("5.0", 5), ("0", 0)])
def test_warm_up_in_steps_or_as_a_share(argv: Arguments, text: str, value: float) -> None:
    found = parse(argv("--lr_warmup_steps", text)).lr_warmup_steps
    assert found == value
    assert isinstance(found, type(value))


def test_help_shows_groups_and_hides_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        build_parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert all(group in text for group in ("timesteps and length:", "experts:", "resuming:"))
    assert "--mlflow_tracking_uri" in text
    assert "--fp8_base [" not in text
