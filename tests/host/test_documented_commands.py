"""Every command of the README, of the users' pages and of the MLflow project is one that its program accepts."""

from __future__ import annotations

import argparse
import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from musubi_ext.commands.doctor_preset import flags as preset_flags
from musubi_ext.errors import Problems, UserError
from musubi_ext.hosts.choice import parse
from musubi_ext.hosts.memory import GIB, DitShape, estimate
from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.hosts.musubi.pocket_task import register
from musubi_ext.hosts.own_flags import add_own_flags, gather_words
from musubi_ext.hosts.presets import describe_presets
from musubi_ext.schedule.experts import Expert

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": 1,
    "docs/TRAINING.md": 7,
    "docs/DATA.md": 0,
    "docs/DATA_CACHING.md": 0,
    "docs/EVALUATION.md": 0,
    "docs/REGISTRY.md": 0,
    "docs/OPERATIONS.md": 0,
    "docs/SERVING.md": 0,
    "docs/DEPLOYMENT.md": 0,
}  # and how many trainings of ours stand in them at least
OURS, UPSTREAM = "musubi_ext.wan_train_network", "src/musubi_tuner/wan_train_network.py"
CACHING = ("musubi_tuner.wan_cache_latents", "musubi_tuner.wan_cache_text_encoder_outputs")
OUR_CACHING = "musubi_ext.orbits.cache"
OUR_PIPELINE = "musubi_ext.pipeline"
OUR_KEYS = "serving.keys"
NOT_OURS = (
    *(".", "make", "mlflow", "pip", "export", "pg_dump", "sqlite3"),
    *("bentoml", "curl", "docker", "kubectl"),  # bentoml's and curl's are run in tests/serving
)  # programs that stand beside ours
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARIABLE = re.compile(r'[A-Z_]+=("[^"]*"|\S*)\s*')


@dataclass(frozen=True)
class Command:
    """A program and the words behind it."""

    page: str
    program: str  # a name, or the module of `python -m`
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join((self.program, *self.words))}"


def commands(page: str) -> Iterator[Command]:
    """Those in blocks of shell commands, launchers taken off; a block that names no language may hold anything."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for language, block in BLOCK.findall(text):
        if language in ("", "bash"):
            for line in block.replace("\\\n", " ").replace(" ; ", "\n").splitlines():
                while match := VARIABLE.match(line):
                    line = line[match.end() :]
                if words := shlex.split(line, comments=True):
                    yield command(page, words)


def command(page: str, words: list[str]) -> Command:
    """`accelerate launch`, `torchrun` and `python -m` in front are checked by their own parsers, and dropped."""
    if words[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert words[1] == "launch"
        args = launch_command_parser().parse_args(words[2:])
        return Command(page, args.training_script, tuple(args.training_script_args))
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        args = get_args_parser().parse_args(words[1:])
        assert args.module
        return Command(page, args.training_script, tuple(args.training_script_args))
    if words[:2] == ["python", "-m"]:
        return Command(page, words[2], tuple(words[3:]))
    if words[:2] == ["musubi-ext", "train"]:
        return Command(page, OURS, tuple(words[2:]))
    return Command(page, words[0], tuple(words[1:]))


def project() -> list[Command]:
    """What MLflow would run, with each entry point's defaults."""
    from mlflow.projects._project_spec import load_project

    made = []
    for name, entry in load_project(str(ROOT / "mlflow_projects"))._entry_points.items():
        words = shlex.split(entry.compute_command({}, str(ROOT)))
        assert words[:3] == ["cd", "..", "&&"], name
        assert words[3] == "exec", name
        made.append(command("mlflow_projects/MLproject", words[4:]))
    return made


@cache
def documented() -> tuple[Command, ...]:
    return *(each for page in PAGES for each in commands(page)), *project()


def of(*programs: str) -> list[Command]:
    return [each for each in documented() if each.program in programs]


def refusals(programs: tuple[str, ...], read: Callable[[Command], object]) -> list[str]:
    """Those of the programs' commands that `read` refuses, with the reason."""
    found = []
    for each in of(*programs):
        try:
            read(each)
        except (UserError, SystemExit) as error:
            found.append(f"{each}: {error}")
    return found


@pytest.fixture
def upstream(host: ModuleType, pocket_files: dict[Expert, Path], process_left_alone: None) -> argparse.ArgumentParser:
    """Upstream's own parser, which knows the pocket task."""
    register(pocket_files[Expert.LOW])
    parser: argparse.ArgumentParser = host.wan_setup_parser(host.setup_parser_common())
    return parser


def test_there_are_commands() -> None:
    for page, trainings in PAGES.items():
        assert len([each for each in of(OURS) if each.page == page]) >= trainings
    assert len(of("musubi-ext")) >= 15
    assert len(of(UPSTREAM)) == 1
    assert {each.page for each in documented()} == {*PAGES, "mlflow_projects/MLproject"}


def test_no_program_is_left_out() -> None:
    """In the training page; the README's blocks hold listings too."""
    known = {OURS, UPSTREAM, *CACHING, OUR_CACHING, OUR_PIPELINE, OUR_KEYS, "musubi-ext", *NOT_OURS}
    assert {each.program for each in documented() if each.page != "README.md"} <= known


def test_trainings_are_read_by_us_and_by_upstream(upstream: argparse.ArgumentParser) -> None:
    """By upstream's own parser, to which our flags were added; what was given has the same value in both."""
    add_own_flags(upstream)

    def read(each: Command) -> None:
        words = gather_words(each.words, (), Problems())  # of the preset too
        ours, theirs = parse(each.words), upstream.parse_args(words)
        for name in {word.partition("=")[0][2:].replace("-", "_") for word in words if word.startswith("--")}:
            assert str(getattr(ours, name)) == str(getattr(theirs, name)), (each, name)

    assert refusals((OURS,), read) == []


def test_a_training_of_upstream_is_read_by_both(upstream: argparse.ArgumentParser) -> None:
    (each,) = of(UPSTREAM)
    theirs, ours = upstream.parse_args(each.words), vars(parse(each.words))
    assert {name for name, value in vars(theirs).items() if ours[name] != value} == {"vae_dtype"}  # its main() sets it


def test_caching_is_read_by_upstream(host: ModuleType) -> None:
    def read(each: Command) -> None:
        parser = import_host_module(each.program.replace(".wan_", ".")).setup_parser_common()
        import_host_module(each.program).wan_setup_parser(parser).parse_args(each.words)

    assert len(of(*CACHING)) == 2
    assert refusals(CACHING, read) == []


def test_caching_is_read_by_us() -> None:
    from musubi_ext.orbits.cache.command import build_parser

    assert {each.page for each in of(OUR_CACHING)} == {"docs/TRAINING.md", "docs/DATA.md", "docs/DATA_CACHING.md"}
    assert refusals((OUR_CACHING,), lambda each: build_parser().parse_args(each.words)) == []


def test_pipelines_are_read_by_us() -> None:
    from musubi_ext.pipeline.command import build_parser

    assert len(of(OUR_PIPELINE)) >= 5
    assert refusals((OUR_PIPELINE,), lambda each: build_parser().parse_args(each.words)) == []


def test_keys_are_read_by_the_service() -> None:
    from serving.keys import build_parser

    assert len(of(OUR_KEYS)) >= 4
    assert refusals((OUR_KEYS,), lambda each: build_parser().parse_args(each.words)) == []


@pytest.mark.filterwarnings(
    "ignore:The parameter -:UserWarning",  # bentoml names some options twice
    "ignore:GitWildMatchPattern:DeprecationWarning",
)
def test_bentos_are_read_by_bentoml() -> None:
    """As far as its options go: the words of `serve` and `containerize` are names that a test in tests/serving uses."""
    bentoml_cli = pytest.importorskip("bentoml_cli.cli", reason="bentoml is not installed")
    verbs = bentoml_cli.create_bentoml_cli().commands

    def read(each: Command) -> None:
        verbs[each.words[0]].make_context(each.words[0], list(each.words[1:]), resilient_parsing=True)

    assert {each.words[0] for each in of("bentoml")} == {"serve", "build", "containerize"}
    assert refusals(("bentoml",), read) == []


def test_verbs_are_read_by_the_command_line() -> None:
    from musubi_ext.cli import build_parser

    assert refusals(("musubi-ext",), lambda each: build_parser().parse_args(each.words)) == []


# the tables of docs/TRAINING.md


def table(name: str) -> list[list[str]]:
    """The cells between <!-- NAME:start --> and its end, without the line below the header."""
    text = (ROOT / "docs" / "TRAINING.md").read_text(encoding="utf-8")
    lines = text.partition(f"<!-- {name}:start -->\n")[2].partition(f"<!-- {name}:end -->")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def test_the_presets_are_those_of_the_code() -> None:
    (_, *names), *rows = table("presets")
    (_, *expected_names), *expected = (line.split() for line in describe_presets().splitlines())
    assert names == expected_names
    assert rows == expected


def test_the_memory_is_what_the_estimate_says() -> None:
    latents = {"33": 9, "49": 13, "81": 21}
    (_, *clips), *rows = table("memory")
    for name, *cells in rows:
        preset, *extra = name.replace("with ", "").split()
        args = Namespace(**vars(preset_flags(preset)), **{flag.removeprefix("--"): True for flag in extra})
        for clip, cell in zip(clips, cells, strict=True):
            frames, width, height = re.findall(r"\d+", clip)
            shape = latents[frames], int(height) // 8, int(width) // 8
            needed = estimate(DitShape(5120, 13824, 40), shape, args)
            assert cell == f"{needed.device / GIB:.1f} ({needed.host / GIB:.1f})", (name, clip)
