"""The command line of the musubi host: musubi-tuner's own parser of `wan_train_network`, and our flags beside it.

Every flag of upstream has its name and meaning. What differs is said in its help: a boundary also as 0.9, `--log_with
mlflow`, `--resume auto`, defaults where upstream has none that works; and mistakes are UserErrors, all at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Sequence
from typing import Any

from musubi_ext.errors import Problems, UserError
from musubi_ext.hosts.arguments import REQUIRED, Parser
from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.hosts.musubi.tracker_config import apply_tracker_config
from musubi_ext.hosts.own_flags import POCKET, add_own_flags, gather_words, nearest
from musubi_ext.hosts.presets import describe_presets
from musubi_ext.schedule.experts import parse_boundary

ATTENTION = ("sdpa", "flash_attn", "sage_attn", "xformers", "flash3")
TENSORBOARD = ("tensorboard", "tensorboardX")  # accelerate takes either
NETWORK = "networks.lora_wan"
VAE_TYPE = "bfloat16"  # upstream's main() sets it where none is given
# Where the part of the help before " / " is not the whole of it, or the flag means more here.
HELP = {
    "task": f"model to train (musubi-tuner: t2v-14B); {POCKET} is the embedded small one",
    "timestep_boundary": "hand-over between the experts, 0.9 or 900; the task's own by default",
    "log_with": "tracker beside MLflow; mlflow: MLflow alone, which is on in any case unless --no_mlflow",
    "logging_dir": "write TensorBoard logs to this folder; needs the tensorboard package",
    "resume": "auto: go on where a killed run was; or a state's folder",
    "seed": "of noise, timesteps, order and initialisation (musubi-tuner: a random one)",
    "network_module": "module of the adapter (musubi-tuner: none)",
    "sdpa": "torch's own attention; also where no attention is named",
    "optimizer_type": "AdamW (when empty), AdamW8bit, AdaFactor, or module.Class",
    "lr_scheduler": "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, adafactor, rex",
    "config_file": "TOML of flags, tables flattened; false leaves a preset's flag out; the command line wins",
}
DEFAULTS = {"task": POCKET, "seed": 42, "network_module": NETWORK}


class _Parser(Parser):
    """Upstream's flags and ours; values that are wrong are collected, so that one does not hide the next."""

    problems: Problems | None = None

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        try:
            return super()._get_values(action, arg_strings)
        except argparse.ArgumentError as error:
            if self.problems is None:
                raise
            self.problems.found.append(str(error))
            return action.default


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows a default that says something, once; the table of presets keeps its columns."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, text = action.default, action.help or ""
        silent = default is None or default is False or default == "" or "default" in text.lower()
        return text if silent else super()._get_help_string(action)


def build_parser() -> Parser:
    """Every flag of the installed musubi-tuner and of ours. Raises UserError when there is no musubi-tuner."""
    host = import_host()
    upstream: argparse.ArgumentParser = host.wan_setup_parser(host.setup_parser_common())
    upstream._optionals.title = "musubi-tuner"  # `parents` copies groups by their titles
    for action in upstream._actions:
        _adapt(action)
    parser = _Parser(
        prog="musubi_ext.wan_train_network",
        usage="%(prog)s --task TASK --dit LOW --dit_high_noise HIGH --dataset_config TOML --output_dir DIR "
        "--output_name NAME [flags]",
        description="Train a pair of LoRA adapters, one for each expert of Wan2.2, by musubi-tuner.",
        epilog="presets:\n" + describe_presets(),
        parents=[upstream],
        add_help=False,  # it comes with upstream's
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    add_own_flags(parser)
    return parser


def _adapt(action: argparse.Action) -> None:
    action.help = HELP.get(action.dest) or english(action.help or "")
    action.default = DEFAULTS.get(action.dest, action.default)
    if action.dest == "timestep_boundary":
        action.type = None  # text, whatever its form
    elif action.dest == "log_with":
        action.choices = [*(action.choices or ()), "mlflow"]
    elif action.dest == "task":
        action.choices = list(dict.fromkeys([*(action.choices or ()), POCKET]))


def english(text: str) -> str:
    """The first language of upstream's "English / 日本語"; a slash between English words stays."""
    kept = []
    for part in re.split(r"\s+/\s+|\s*/\s*(?=[^\x00-\x7f])", text.rstrip(" /")):
        if not part.isascii():
            break
        kept.append(part.strip())
    return " / ".join(kept)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Command line, `--config_file` and `--preset` to arguments, as upstream's main() leaves them, and ours.

    `timestep_boundary` is text as it was given, with `--extension off` the number that upstream wants. Raises UserError
    with every unknown flag, wrong value and contradiction; also when there is no musubi-tuner.
    """
    parser, problems = build_parser(), Problems()
    words = _known(gather_words(argv, parser.flags, problems), parser, problems)
    args = _values(parser, words, problems)
    if args is not None:
        _check_required(args, problems)
        _check_logging(args, problems)
        if args.extension == "on" and not args.no_mlflow:
            apply_tracker_config(args, parser.get_default, problems)
        _check_precision(args, problems)
        problems.collect(lambda: _finish(args))
    problems.raise_if_any()
    assert args is not None  # its problems would have been raised
    return args


def _known(words: Sequence[str], parser: Parser, problems: Problems) -> list[str]:
    """The words without unknown flags and what follows them; those are recorded with the nearest flag there is."""
    kept: list[str] = []
    unknown = False
    for word in words:
        flag = word.partition("=")[0]
        if word.startswith("--"):
            unknown = flag not in parser.flags
            if unknown:
                problems.add(flag, "unknown flag", nearest(flag, parser.flags))
        if not unknown:
            kept.append(word)
    return kept


def _values(parser: Parser, words: Sequence[str], problems: Problems) -> argparse.Namespace | None:
    assert isinstance(parser, _Parser)
    parser.problems = problems
    try:
        args, extra = parser.parse_known_args(words)
    except UserError as error:
        problems.found += error.problems
        return None
    finally:
        parser.problems = None
    for word in extra:
        problems.add(word, "expected a flag, found a word that belongs to none", "quote values with spaces")
    return args


def _check_required(args: argparse.Namespace, problems: Problems) -> None:
    for name in REQUIRED:
        if not getattr(args, name):
            problems.add(f"--{name}", "required, not given")


def _check_logging(args: argparse.Namespace, problems: Problems) -> None:
    """Upstream logs nothing, and says nothing, where the tracker's package is not installed."""
    board = args.log_with in ("tensorboard", "all") or (args.log_with is None and args.logging_dir)
    if board and not any(map(importlib.util.find_spec, TENSORBOARD)):
        flag = f"--log_with {args.log_with}" if args.log_with else "--logging_dir"
        problems.add(flag, "needs the tensorboard package, found none", "pip install tensorboard, or use MLflow alone")
    if board and not args.logging_dir:
        problems.add(f"--log_with {args.log_with}", "needs a folder", "add --logging_dir")
    if args.log_with in ("wandb", "all") and not importlib.util.find_spec("wandb"):
        problems.add(f"--log_with {args.log_with}", "needs the wandb package, found none", "pip install wandb")
    if args.log_with == "mlflow" and args.logging_dir:
        problems.add("--logging_dir", "is TensorBoard's, --log_with is mlflow", "leave one of them out")
    if args.log_with == "mlflow" and args.no_mlflow:
        problems.add("--no_mlflow", "contradicts --log_with mlflow", "leave one of them out")


def _check_precision(args: argparse.Namespace, problems: Problems) -> None:
    """What upstream asserts once it has started."""
    if args.fp8_scaled and not args.fp8_base:
        problems.add("--fp8_scaled", "works only with --fp8_base", "add --fp8_base")
    if args.sage_attn:
        problems.add("--sage_attn", "cannot be trained with", "use --sdpa, --flash_attn, --flash3 or --xformers")


def _finish(args: argparse.Namespace) -> None:
    """What upstream's main() sets, the stand-ins of our own words, and upstream's form of the boundary."""
    args.dit_dtype = None  # found in the weights
    args.vae_dtype = args.vae_dtype or VAE_TYPE
    if args.log_with == "mlflow" and args.extension == "on":  # upstream's own trainer leaves it to accelerate
        args.log_with = None
    args.sdpa = args.sdpa or not any(getattr(args, name) for name in ATTENTION)
    if args.timestep_boundary is not None:
        boundary = parse_boundary(args.timestep_boundary)
        if args.extension == "off":
            args.timestep_boundary = boundary
