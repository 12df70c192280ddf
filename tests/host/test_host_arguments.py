"""Upstream's own parser and our flags on one command line, and the memory that its flags are estimated to need."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from musubi_ext.errors import UserError
from musubi_ext.hosts.memory import DitShape, estimate
from musubi_ext.hosts.musubi.arguments import TENSORBOARD, build_parser, english, parse
from musubi_ext.hosts.own_flags import add_own_flags
from musubi_ext.hosts.presets import NAMES, preset_words

# Circle-Rotate's command, as it is
RECIPE = """
--task i2v-A14B --fp8_base --sdpa --mixed_precision fp16 --optimizer_type adamw8bit --learning_rate 2e-4
--gradient_checkpointing --gradient_checkpointing_cpu_offload --network_module networks.lora_wan --network_dim 32
--timestep_sampling shift --discrete_flow_shift 8.0 --max_train_epochs 100 --save_every_n_epochs 1 --seed 42
--blocks_to_swap 30 --vae_cache_cpu --sample_prompts prompts.txt --sample_every_n_epochs 1
""".split()  # noqa: SIM905 - as it is typed
DIFFERENT = {"task", "seed", "network_module", "sdpa", "vae_dtype"}  # defaults of ours, each said in the help


@pytest.fixture
def words(host: ModuleType) -> Callable[..., list[str]]:
    """The required flags and some more."""
    return lambda *more: ["--dataset_config", "data.toml", "--output_dir", "out", "--output_name", "car", *more]


@pytest.fixture
def upstream(host: ModuleType) -> argparse.ArgumentParser:
    """Upstream's parser, as its main() builds it."""
    parser: argparse.ArgumentParser = host.wan_setup_parser(host.setup_parser_common())
    return parser


Words = Callable[..., list[str]]


def problems(argv: list[str]) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        parse(argv)
    return caught.value.problems


def flag_of(action: argparse.Action) -> str:
    return max(action.option_strings, key=len)


# upstream's flags


def test_the_recipe_means_what_it_means_to_upstream(words: Words, upstream: argparse.ArgumentParser) -> None:
    ours, theirs = parse(words(*RECIPE)), upstream.parse_args(words(*RECIPE))
    for name, value in vars(theirs).items():
        assert getattr(ours, name) == value or name == "vae_dtype", name
    assert (ours.dit_dtype, ours.vae_dtype) == (None, "bfloat16")  # as upstream's main() sets them


def test_every_flag_of_upstream_is_there_with_its_default(words: Words, upstream: argparse.ArgumentParser) -> None:
    ours, theirs = vars(parse(words())), vars(upstream.parse_args(words()))
    assert theirs.keys() <= ours.keys()
    assert {name for name, value in theirs.items() if ours[name] != value} == DIFFERENT
    assert [ours[name] for name in ("task", "seed", "network_module", "sdpa")] == [
        "pocket-i2v",
        42,
        "networks.lora_wan",
        True,
    ]


def test_every_flag_of_upstream_takes_what_it_takes_there(words: Words, upstream: argparse.ArgumentParser) -> None:
    for action in upstream._actions:
        if action.dest in (
            "help",
            "config_file",
            "fp8_scaled",
            "sage_attn",
            "log_with",
            "logging_dir",
            "log_tracker_config",
        ):
            continue  # the last five are checked against others, or read
        some = "900" if action.dest == "timestep_boundary" else "1"
        value = [] if action.nargs == 0 else [str(next(iter(action.choices or [some])))]
        argv = words(flag_of(action), *value)
        expected = getattr(upstream.parse_args(argv), action.dest)
        found = getattr(parse(argv), action.dest)
        assert found == (str(expected) if action.dest == "timestep_boundary" else expected), action.dest


def test_none_of_our_flags_hides_one_of_upstream(upstream: argparse.ArgumentParser) -> None:
    add_own_flags(upstream)  # argparse refuses a name twice


def test_both_forms_of_the_boundary_and_nonsense(words: Words) -> None:
    assert parse(words("--timestep_boundary", "0.875")).timestep_boundary == "0.875"
    assert parse(words("--timestep_boundary", "875")).timestep_boundary == "875"
    for form in ("0.875", "875"):  # upstream's own trainer calculates with it
        assert parse(words("--timestep_boundary", form, "--extension", "off")).timestep_boundary == 0.875
    (problem,) = problems(words("--timestep_boundary", "8750"))
    assert "between 0 and 1" in problem


def test_another_attention_is_not_joined_by_sdpa(words: Words) -> None:
    args = parse(words("--flash_attn"))
    assert (args.flash_attn, args.sdpa) == (True, False)


def test_resume_takes_auto(words: Words) -> None:
    assert parse(words("--resume", "auto")).resume == "auto"
    assert parse(words()).resume is None


# mistakes


def test_unknown_flags_and_wrong_values_at_once(host: ModuleType) -> None:
    found = problems("--fp8base --learning_rte 1 --seed many --network_dim x --task i2v stray --output_dir out".split())  # noqa: SIM905
    starts = [
        "--fp8base: unknown flag (did you mean --fp8_base?)",
        "--learning_rte: unknown flag (did you mean --learning_rate?)",
    ]
    starts += ["argument --seed: invalid int value: 'many'", "argument --network_dim: invalid int value: 'x'"]
    starts += ["argument --task: invalid choice: 'i2v'", "stray: expected a flag", "--dataset_config: required"]
    starts += ["--output_name: required"]
    assert len(found) == len(starts)
    assert all(problem.startswith(start) for problem, start in zip(found, starts, strict=True))


def test_a_flag_without_its_value(words: Words) -> None:
    found = problems(words("--sed", "1", "--seed"))
    assert found == ("--sed: unknown flag (did you mean --seed?)", "argument --seed: expected one argument")


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ("--fp8_scaled", "--fp8_scaled: works only with --fp8_base"),
        ("--sage_attn", "--sage_attn: cannot be trained with"),
        ("--log_with mlflow --no_mlflow", "--no_mlflow: contradicts --log_with mlflow"),
        ("--log_with mlflow --logging_dir logs", "--logging_dir: is TensorBoard's"),
    ],
)
def test_contradictions(words: Words, more: str, start: str) -> None:
    (problem,) = problems(words(*more.split()))
    assert problem.startswith(start)


def test_mlflow_as_tracker_changes_nothing_else(words: Words) -> None:
    assert vars(parse(words("--log_with", "mlflow"))) == vars(parse(words()))


@pytest.mark.skipif(any(map(importlib.util.find_spec, TENSORBOARD)), reason="tensorboard is installed")
@pytest.mark.parametrize(
    "more", ["--logging_dir logs", "--log_with tensorboard --logging_dir logs", "--log_with all --logging_dir logs"]
)
def test_tensorboard_that_is_not_installed_is_an_error(words: Words, more: str) -> None:
    assert "needs the tensorboard package" in problems(words(*more.split()))[0]


# config file and presets


def test_a_config_file_comes_first_and_the_command_line_wins(words: Words, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        "seed = 7\n[network]\nnetwork_dim = 8\nlearning_rate = 2e-4\n[other]\nfp8_base = true\nxformers = false\n"
        'optimizer_args = ["weight_decay=0.1", "eps=1e-6"]\ntimestep_boundary = 0.9\n'
    )
    args = parse(words("--config_file", str(tmp_path / "run"), "--seed", "8"))
    assert (args.seed, args.network_dim, args.learning_rate, args.timestep_boundary) == (8, 8, 2e-4, "0.9")
    assert (args.fp8_base, args.xformers) == (True, False)
    assert args.optimizer_args == ["weight_decay=0.1", "eps=1e-6"]


def test_a_config_file_is_held_to_the_same_rules(words: Words, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('log_with = "mlflw"\nsed = 1\nmax_train_steps = "many"\n')
    found = problems(words("--config_file", str(tmp_path / "run.toml")))
    assert found[0] == f"{tmp_path / 'run.toml'} sed: unknown flag (did you mean --seed?)"
    assert [problem.split(":")[0] for problem in found[1:]] == ["argument --log_with", "argument --max_train_steps"]


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_read_by_upstream_itself(words: Words, upstream: argparse.ArgumentParser, name: str) -> None:
    theirs = upstream.parse_args([word for word in preset_words(name) if word != "--task=pocket-i2v"])
    ours = parse(words("--preset", name))
    flags = {word.partition("=")[0][2:] for word in preset_words(name)} - {"task"}
    assert all(getattr(ours, flag) == getattr(theirs, flag) for flag in flags)


def test_the_recipe_in_full_is_its_preset(words: Words) -> None:
    ours, preset = vars(parse(words(*RECIPE))), vars(parse(words("--preset", "circle-rotate-24gb")))
    only = {"preset", "sample_prompts", "sample_every_n_epochs"}
    assert {name for name in ours if ours[name] != preset[name]} == only


def test_a_given_flag_replaces_the_preset_s(words: Words) -> None:
    preset = ("--preset", "circle-rotate-24gb")
    args = parse(words(*preset, "--network_dim", "8", "--blocks_to_swap=0", "--max_train_steps", "9", "--xformers"))
    assert (args.network_dim, args.blocks_to_swap, args.max_train_steps, args.max_train_epochs) == (8, 0, 9, None)
    assert (args.xformers, args.sdpa) == (True, False)
    args = parse(words(*preset, "--without", "fp8_base", "vae_cache_cpu", "--mixed_precision", "bf16"))
    assert (args.fp8_base, args.vae_cache_cpu, args.gradient_checkpointing) == (False, False, True)


# help


def test_help_shows_both_in_one_language(host: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    for group in (
        "musubi-tuner",
        "host",
        "experts",
        "validation and bands",
        "states",
        "previews",
        "pair and output",
        "tracking",
    ):
        assert f"\n{group}:\n" in text
    assert not re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]", text)
    assert "\n--" not in text  # every flag is indented below its group
    for name in NAMES:
        assert name in text


def test_every_flag_has_a_help(host: ModuleType) -> None:
    assert [action.dest for action in build_parser()._actions if not action.help] == []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("training steps / 学習ステップ数", "training steps"),
        ("frozen-base / LoRA training only / 実験的、ベース凍結", "frozen-base / LoRA training only"),
        ("the value of --n)/ 最大Nエポック", "the value of --n)"),
        ("scheduler to use / 学習率の: linear, cosine / ", "scheduler to use"),
        ("data type for VAE", "data type for VAE"),
        ("(ex: --resume {id}/{path})", "(ex: --resume {id}/{path})"),
    ],
)
def test_the_english_part_of_a_help(text: str, kept: str) -> None:
    assert english(text) == kept


# memory, of what upstream's model really allocates


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("dim", "ffn_dim"), [(128, 346), (192, 768)])
def test_the_estimate_is_the_measured_peak(
    host: ModuleType,
    dim: int,
    ffn_dim: int,
    weights: torch.dtype,
    checkpointing: bool,
) -> None:
    rank, layers, latent = 8, 3, (4, 32, 32)
    peak = measured_peak(dim, ffn_dim, layers, rank, latent, weights, checkpointing)
    args = Namespace(mixed_precision="bf16", gradient_checkpointing=checkpointing, network_dim=rank)
    kind = "bf16" if weights is torch.bfloat16 else "fp32"
    expected = estimate(DitShape(dim, ffn_dim, layers, text_dim=64), latent, args, file_type=kind)
    assert expected.activations + expected.casts == pytest.approx(peak, rel=0.03)


def measured_peak(
    dim: int,
    ffn_dim: int,
    layers: int,
    rank: int,
    latent: tuple[int, int, int],
    weights: torch.dtype,
    checkpointing: bool,
) -> int:
    """Bytes that a step of training a LoRA on upstream's WanModel allocates at its peak, beside what was there."""
    model = importlib.import_module("musubi_tuner.wan.modules.model").WanModel(
        model_type="i2v", model_version="2.2", dim=dim, ffn_dim=ffn_dim, freq_dim=64, in_dim=36, num_heads=2,
        num_layers=layers, text_dim=64, text_len=16, attn_mode="torch",
    ).to(weights)  # fmt: skip
    for part in (model.time_embedding, model.time_projection, *(block.norm3 for block in model.blocks)):
        part.float()  # on a GPU autocast casts for them, on the CPU it does not
    model.requires_grad_(False).train()
    create = importlib.import_module("musubi_tuner.networks.lora_wan").create_arch_network
    network = create(1.0, rank, 1.0, None, None, model)
    network.apply_to(None, model, apply_text_encoder=False, apply_unet=True)
    network.requires_grad_(True)
    if checkpointing:
        model.enable_gradient_checkpointing(False)
    noisy = torch.randn(1, 16, *latent, requires_grad=checkpointing)
    rest = {"t": torch.tensor([500.0]), "context": [torch.randn(16, 64)], "y": torch.randn(1, 20, *latent)}

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(noisy, seq_len=latent[0] * latent[1] * latent[2] // 4, **rest)
        out[0].pow(2).mean().backward()

    step()  # the gradients exist from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = peak = 0
    for _, size in changes:
        now += size
        peak = max(peak, now)
    return peak
