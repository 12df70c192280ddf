"""The command line of training: musubi-tuner's flags with their names and meanings, and ours.

Where musubi-tuner leaves a choice to the user, or its default is made for another model, ours says so in the help.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from musubi_ext.errors import Problems, UserError
from musubi_ext.hosts.own_flags import POCKET, add_own_flags, gather_words, nearest
from musubi_ext.hosts.refused import REFUSED
from musubi_ext.schedule.experts import find_task

REQUIRED = ("dataset_config", "output_dir", "output_name")


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UserError(message)

    @property
    def flags(self) -> tuple[str, ...]:
        """Every flag, with its dashes."""
        return tuple(flag for flag in self._option_string_actions if flag.startswith("--"))


def build_parser() -> Parser:
    """Every flag that training knows, in groups; the refused ones are known too, so that they can be named."""
    parser = Parser(
        prog="musubi_ext.wan_train_network",
        description="Train a pair of LoRA adapters, one for each expert of Wan2.2 image-to-video.",
        epilog="Flags that musubi-tuner knows and the pocket host refuses: "
        + " ".join(f"--{name}" for name in sorted(REFUSED)),
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for add in (_add_model, _add_schedule, _add_optimizer, _add_network, _add_memory, _add_saving, _add_states):
        add(parser)
    add_own_flags(parser)
    for name in REFUSED:
        parser.add_argument(f"--{name}", nargs="*", default=None, help=argparse.SUPPRESS)
    return parser


def _add_model(parser: Parser) -> None:
    group = parser.add_argument_group("model and data")
    group.add_argument("--config_file", type=Path, help="TOML of flags, tables flattened; the command line wins")
    group.add_argument("--task", default=POCKET, help="which Wan to train: pocket-i2v")
    group.add_argument("--dataset_config", type=Path, help="dataset TOML (required)")
    group.add_argument("--dit", type=Path, help="low-noise expert: folder of a diffusers transformer or pipeline")
    group.add_argument("--dit_high_noise", type=Path, help="high-noise expert: the same")
    group.add_argument("--vae", type=Path, help="pipeline folder that caching encodes clips with; shipped by default")
    group.add_argument("--t5", type=Path, help="pipeline folder of the text encoder; must be that of --vae")
    group.add_argument("--max_data_loader_n_workers", type=int, default=8, help="none are needed: caches are in memory")
    group.add_argument("--persistent_data_loader_workers", action="store_true", help="holds trivially, as above")


def _add_schedule(parser: Parser) -> None:
    group = parser.add_argument_group("timesteps and length")
    group.add_argument("--timestep_boundary", help="hand-over, 0.9 or 900; the task's own by default")
    group.add_argument("--timestep_sampling", default="shift", help="density of the timesteps (musubi-tuner: sigma)")
    group.add_argument("--discrete_flow_shift", type=float, default=5.0, help="shift of it (musubi-tuner: 1)")
    group.add_argument("--sigmoid_scale", type=float, default=1.0, help="spread of sigmoid, shift and flux_shift")
    group.add_argument("--logit_mean", type=float, default=0.0, help="mean of logsnr and logit_normal")
    group.add_argument("--logit_std", type=float, default=1.0, help="deviation of logsnr and logit_normal")
    group.add_argument("--min_timestep", type=float, help="lowest timestep of 1000 to train on, within an expert's own")
    group.add_argument("--max_timestep", type=float, help="highest timestep of 1000 to train on")
    group.add_argument("--preserve_distribution_shape", action="store_true", help="always so: the law is truncated")
    group.add_argument(
        "--weighting_scheme",
        default="none",
        choices=["none", "sigma_sqrt", "cosmap", "logit_normal", "mode"],
        help="weight of the loss by timestep",
    )
    group.add_argument("--max_train_steps", type=int, default=500, help="updates of each expert (musubi-tuner: 1600)")
    group.add_argument("--max_train_epochs", type=int, help="passes over the data; replaces --max_train_steps")
    group.add_argument("--seed", type=int, default=42, help="of noise, timesteps, order and initialisation")


def _add_optimizer(parser: Parser) -> None:
    group = parser.add_argument_group("optimizer")
    group.add_argument("--optimizer_type", default="adamw", help="adamw, adamw8bit, adafactor or module.Class")
    group.add_argument("--optimizer_args", nargs="*", help="key=value of the optimizer")
    group.add_argument("--learning_rate", type=float, default=2e-3, help="learning rate (musubi-tuner: 2e-6)")
    group.add_argument("--lr_scheduler", default="constant", help="constant, cosine, linear, …")
    group.add_argument("--lr_warmup_steps", type=_int_or_float, default=0, help="updates, or a share below 1")
    group.add_argument("--lr_scheduler_num_cycles", type=int, default=1, help="of cosine_with_restarts")
    group.add_argument("--lr_scheduler_power", type=float, default=1.0, help="of polynomial")
    group.add_argument("--max_grad_norm", type=float, default=1.0, help="0: gradients are not clipped")
    group.add_argument("--gradient_accumulation_steps", type=int, default=1, help="batches of one update")


def _add_network(parser: Parser) -> None:
    group = parser.add_argument_group("adapter")
    group.add_argument("--network_module", default="networks.lora_wan", help="the only one there is")
    group.add_argument("--network_dim", type=int, default=16, help="rank")
    group.add_argument("--network_alpha", type=float, default=1.0, help="the adapter is scaled by alpha / rank")
    group.add_argument("--network_args", nargs="*", help="key=value: loraplus_lr_ratio")
    group.add_argument("--training_comment", help="kept in the adapter's metadata")


def _add_memory(parser: Parser) -> None:
    group = parser.add_argument_group("precision and memory")
    group.add_argument("--mixed_precision", default="no", choices=["no", "bf16", "fp16"], help="fp16 needs CUDA")
    group.add_argument("--sdpa", action="store_true", help="always so: torch's own attention")
    group.add_argument("--gradient_checkpointing", action="store_true", help="recompute activations, save memory")
    group.add_argument(
        "--gradient_checkpointing_cpu_offload", action="store_true", help="keep what is saved in main memory"
    )


def _add_saving(parser: Parser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", type=Path, help="folder of the pair (required)")
    group.add_argument("--output_name", help="name of the checkpoints: NAME_h, NAME_l (required)")
    group.add_argument("--save_every_n_epochs", type=int, help="NAME_h-000001.safetensors, …")
    group.add_argument("--save_every_n_steps", type=int, help="NAME_h-step00000100.safetensors, …")
    group.add_argument("--save_precision", default="float", choices=["float", "fp16", "bf16"], help="of saved weights")
    group.add_argument("--save_last_n_epochs", type=int, help="keep only so many of the checkpoints by epoch")
    group.add_argument("--save_last_n_steps", type=int, help="keep only the checkpoints of the last N updates")
    group.add_argument("--sample_prompts", type=Path, help="file of prompts that previews are made of")


def _add_states(parser: Parser) -> None:
    group = parser.add_argument_group("resuming")
    group.add_argument("--resume", help="auto: go on where a killed run was; or a state's folder")
    group.add_argument("--save_state", action="store_true", help="a training state with every checkpoint")
    group.add_argument("--save_state_on_train_end", action="store_true", help="a training state at the end")
    group.add_argument("--save_last_n_epochs_state", type=int, help="--save_last_n_epochs for states")
    group.add_argument("--save_last_n_steps_state", type=int, help="--save_last_n_steps for states")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line and `--config_file` to arguments. Raises UserError with every unknown and every refused flag."""
    parser, problems = build_parser(), Problems()
    words = gather_words(argv, parser.flags, problems)
    _find_unknown(parser, words, problems)
    args = argparse.Namespace()
    try:
        args, extra = parser.parse_known_args(words)
        for word in extra:
            if not word.startswith("--"):
                problems.add(word, "expected a flag, found a word that belongs to none", "quote values with spaces")
    except UserError as error:
        problems.found += error.problems
        raise UserError(problems.found) from error
    _check_task(args.task)
    _find_refused(args, problems)
    for name in REQUIRED:
        if not getattr(args, name):
            problems.add(f"--{name}", "required, not given")
    problems.raise_if_any()
    for name in REFUSED:
        delattr(args, name)
    return args


def _check_task(name: str) -> None:
    if find_task(name).name != POCKET:
        raise UserError(
            f"--task {name}: needs the musubi-tuner host, which this version of musubi-ext does not include"
            f" (train with --task {POCKET})"
        )


def _find_unknown(parser: Parser, words: Sequence[str], problems: Problems) -> None:
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in parser.flags:
            problems.add(flag, "unknown flag", nearest(flag, parser.flags))


def _find_refused(args: argparse.Namespace, problems: Problems) -> None:
    for name, reason in REFUSED.items():
        given = getattr(args, name)
        if given is not None and not (name == "blocks_to_swap" and given == ["0"]):
            problems.add(f"--{name}", "not possible with task pocket-i2v", reason)


def _int_or_float(text: str) -> int | float:
    """musubi-tuner's `_int_or_float`: 100 updates, or a share of them as 0.1 or 10%."""
    number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    return int(number) if number.is_integer() and not text.endswith("%") else number
