"""The flags that are ours on every host, and where the words of a command come from: preset, config file, command line.

Later words win: `--preset`'s come first, then those of `--config_file`, then the command line itself.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import toml

from musubi_ext.errors import Problems, UserError
from musubi_ext.hosts.presets import NAMES, REPLACE, preset_words

POCKET = "pocket-i2v"  # the task of the embedded host, and every host's default
EXPERTS = ("high,low", "low,high", "high", "low")
HOSTS = ("auto", "pocket", "musubi")


def add_own_flags(parser: argparse.ArgumentParser) -> None:
    """Add our flags in groups; none of them has a namesake in musubi-tuner v0.3."""
    for add in (_add_host, _add_experts, _add_validation, _add_states, _add_previews, _add_output, _add_tracking):
        add(parser)


def _add_host(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("host")
    group.add_argument("--preset", choices=NAMES, help="flags that go together; a flag that is given replaces its own")
    group.add_argument("--without", nargs="+", metavar="FLAG", help="flags of preset and config file to leave out")
    group.add_argument("--host", choices=HOSTS, default="auto", help="trainer; auto: pocket for its own task")
    group.add_argument(
        "--extension", choices=("on", "off"), default="on", help="off: musubi-tuner's own trainer, for comparison"
    )


def _add_experts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("experts")
    group.add_argument("--experts", default=EXPERTS[0], choices=EXPERTS, help="which experts to train")
    group.add_argument(
        "--full_range", action="store_true", help="each expert over the whole timestep range, as Circle-Rotate trains"
    )
    group.add_argument("--parallel_experts", action="store_true", help="both experts side by side, a process each")
    group.add_argument("--confirm_boundary", help="the same number again, where it is not the boundary of the task")


def _add_validation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("validation and bands")
    group.add_argument(
        "--validate_every_n_steps", type=_at_least(0), default=200, help="0: only before and after training"
    )
    group.add_argument(
        "--early_stop_patience", type=_at_least(1), help="end an expert after so many validations without improvement"
    )
    group.add_argument(
        "--band_emphasis", help="weight of a frequency band in the loss, e.g. space_high=2; none by default"
    )
    group.add_argument("--no_bands", action="store_true", help="do not measure the loss by frequency band")


def _add_states(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("states")
    group.add_argument(
        "--save_state_every_n_steps", type=_at_least(1), help="training states that --resume auto goes on from"
    )


def _add_previews(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("previews")
    group.add_argument(
        "--preview_every_n_epochs", type=_at_least(1), help="videos of the sample prompts by both experts"
    )
    group.add_argument(
        "--preview_at_end", choices=("auto", "on", "off"), default="auto", help="auto: where sample prompts are given"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pair and output")
    group.add_argument("--pair_name", help="name of the pair, when it is not --output_name")
    group.add_argument("--overwrite", action="store_true", help="train again what is finished")
    group.add_argument("--dry_run", "--dry-run", action="store_true", help="print what would be done, and end")


def _add_tracking(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tracking")
    group.add_argument("--mlflow_tracking_uri", help="sqlite:///mlflow.db in the working directory by default")
    group.add_argument("--mlflow_experiment", default="musubi-ext", help="experiment of the runs")
    group.add_argument("--mlflow_run_name", help="name of the pair's run; the pair's by default")
    group.add_argument("--no_mlflow", action="store_true", help="track nothing in MLflow")


def _at_least(bound: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < bound:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {bound}, found {text!r}")
        return int(text)

    return whole


def choose_host(argv: Sequence[str]) -> str:
    """ "pocket" or "musubi", from `--host`, `--extension` and the task, wherever they are given.

    Raises UserError for an unreadable config file, and where `--host pocket` contradicts the other two.
    """
    given = _find(gather_words(argv, (), Problems()), "host", "task", "extension")
    task = given.task or POCKET
    musubi = task != POCKET or given.extension == "off"
    if given.host == "pocket" and musubi:
        found = f"--task {task}" if task != POCKET else "--extension off"
        raise UserError(f"--host pocket: trains --task {POCKET} with the extension, found {found} (leave --host out)")
    return "musubi" if musubi or given.host == "musubi" else "pocket"


def gather_words(argv: Sequence[str], known: Collection[str], problems: Problems) -> list[str]:
    """Every word in the order in which they count. `known` are the parser's flags, with dashes; empty: any will do.

    A preset's flag is left out where `--without`, a `false` of the config file or another flag that stands for it
    (`presets.REPLACE`) says so. Raises UserError for a config file that is missing or no TOML.
    """
    sources = _find(argv, "config_file", "preset")
    config = read_config(Path(sources.config_file)) if sources.config_file is not None else {}
    without = {*_without(argv, problems, known), *_listed(config.get("without", []))}
    off = without | {key for key, value in config.items() if value is False}
    words = _config_words(sources.config_file, {k: v for k, v in config.items() if k not in off}, known, problems)
    typed = _flags([*words, *argv])
    preset = sources.preset or str(config.get("preset", ""))
    first = [word for word in (preset_words(preset) if preset in NAMES else []) if not _flags([word]) & off]
    return [*(word for word in first if not _replaced(word, typed)), *words, *argv]


def read_config(path: Path) -> dict[str, Any]:
    """Keys and values of a `--config_file`, its tables flattened; ".toml" may be left out, as upstream allows.

    Raises UserError when it is missing or no TOML.
    """
    path = _with_suffix(path)
    if not path.is_file():
        raise UserError(f"--config_file {path}: expected a TOML file, found nothing")
    try:
        document = toml.loads(path.read_text(encoding="utf-8"))
    except (ValueError, IndexError) as error:  # toml 0.10 lets an IndexError out of some malformed lines
        raise UserError(f"{path}: not valid TOML: {error}") from error
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat.update(value if isinstance(value, dict) else {key: value})
    return flat


def nearest(flag: str, flags: Iterable[str]) -> str:
    """ "did you mean --learning_rate?", or where to look."""
    close = difflib.get_close_matches(flag, list(flags), 1)
    return f"did you mean {close[0]}?" if close else "see --help"


def _find(words: Sequence[str], *names: str) -> argparse.Namespace:
    """The last value of each of the flags, None where it is not given."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        finder.add_argument(f"--{name}", nargs="+" if name == "without" else None)
    try:
        return finder.parse_known_args(words)[0]
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error


def _without(argv: Sequence[str], problems: Problems, known: Collection[str]) -> list[str]:
    """The names after `--without`; recorded are those that are no flag, or that argv gives as well."""
    names: list[str] = _find(argv, "without").without or []
    for name in names:
        if known and f"--{name}" not in known:
            problems.add(f"--without {name}", "unknown flag", nearest(f"--{name}", known))
        elif name in _flags(argv):
            problems.add(f"--without {name}", f"--{name} is given as well", "leave one of them out")
    return names


def _config_words(path: str | None, config: Mapping[str, Any], known: Collection[str], problems: Problems) -> list[str]:
    words: list[str] = []
    for key, value in config.items():
        where = f"{_with_suffix(Path(path or ''))} {key}"
        if known and f"--{key}" not in known:
            problems.add(where, "unknown flag", nearest(f"--{key}", known))
        elif isinstance(value, dict):
            problems.add(where, "expected a value, found a table inside a table", "write its keys one level up")
        elif isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        else:
            words.append(f"--{key}" if value is True else f"--{key}={value}")
    return words


def _listed(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _with_suffix(path: Path) -> Path:
    return path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")


def _flags(words: Iterable[str]) -> set[str]:
    """Names of the flags among words: ["--seed=1", "--sdpa", "8"] → {"seed", "sdpa"}."""
    return {word.partition("=")[0][2:] for word in words if word.startswith("--")}


def _replaced(word: str, typed: Collection[str]) -> bool:
    """Whether a flag that was typed stands for this one of the preset."""
    (name,) = _flags([word])
    return any(name in row and any(other in typed for other in row) for row in REPLACE)
