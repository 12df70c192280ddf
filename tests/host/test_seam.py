"""The table of methods is musubi-tuner's own, in every release, and holds whatever our classes override or call."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from musubi_ext.hosts.extension import OrbitExtension
from musubi_ext.hosts.musubi.discovery import COMMITS, find_host, git
from musubi_ext.hosts.musubi.pocket_task import PocketParts
from musubi_ext.hosts.musubi.seams import EXPECTED, check_seams, expected, parameters
from musubi_ext.hosts.musubi.trainer import MusubiHost
from musubi_ext.hosts.pocket import PocketTrainer
from musubi_ext.hosts.seam import HostTrainer

HOME = os.environ.get("MUSUBI_TUNER_HOME", "")
FILES = ("training/trainer_base.py", "wan_train_network.py")  # NetworkTrainer, then WanNetworkTrainer over it
METHODS = sorted(name for name in vars(HostTrainer).keys() & EXPECTED.keys() if name != "__init__")
HOSTS = Path(inspect.getfile(HostTrainer)).parent
CALLERS = sorted([*(HOSTS / "musubi").glob("*.py"), HOSTS / "extension.py", HOSTS / "loop.py", HOSTS / "validation.py"])
TRAINERS = {"self", "host", "upstream", "trainer", "super()"}  # what our files call the host's object


def written(source: str) -> dict[str, str]:
    """Parameters of every method of the trainer classes in a file, as the table spells them."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name in ("NetworkTrainer", "WanNetworkTrainer"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    stars = [f"**{method.args.kwarg.arg}"] if method.args.kwarg else []
                    found[method.name] = ", ".join([*(argument.arg for argument in method.args.args), *stars])
    return found


def called(source: str) -> Iterator[str]:
    """Names of the methods that a file takes from something it takes for the host's trainer."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in TRAINERS:
            yield node.attr


@pytest.mark.parametrize("tag", COMMITS)
def test_the_table_is_every_release_s(tag: str) -> None:
    if not HOME:
        pytest.skip("MUSUBI_TUNER_HOME is not set: no musubi-tuner checkout to compare with")
    commit = git("rev-parse", f"{tag}^{{commit}}", folder=Path(HOME))
    if commit.returncode:
        pytest.skip(f"the clone in MUSUBI_TUNER_HOME has no tag {tag}")
    assert commit.stdout.strip() == COMMITS[tag]
    found: dict[str, str] = {}
    for file in FILES:
        found |= written(git("show", f"{tag}:src/musubi_tuner/{file}", folder=Path(HOME)).stdout)
    table = expected(tag.removeprefix("v"))
    assert {name: found.get(name) for name in table} == table


def test_the_imported_trainer_is_the_table_s(host: ModuleType) -> None:
    version = find_host().version
    check_seams(host.WanNetworkTrainer, version)
    assert {name: parameters(host.WanNetworkTrainer, name) for name in EXPECTED} == expected(version)


@pytest.mark.parametrize("ours", [OrbitExtension, MusubiHost, PocketParts])
def test_what_we_override_is_in_the_table(host: ModuleType, ours: type) -> None:
    own = {name for name, value in vars(ours).items() if inspect.isfunction(value)}
    assert own & methods(host) <= EXPECTED.keys()


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: path.name)
def test_what_we_call_is_in_the_table(host: ModuleType, path: Path) -> None:
    assert set(called(path.read_text(encoding="utf-8"))) & methods(host) <= EXPECTED.keys()


def methods(host: ModuleType) -> set[str]:
    return {name for name, _ in inspect.getmembers(host.WanNetworkTrainer, inspect.isfunction)}


@pytest.mark.parametrize("name", METHODS)
def test_the_pocket_host_has_the_seam(name: str) -> None:
    own = parameters(PocketTrainer, name)
    assert own in (EXPECTED[name], "self, *args, **kwargs")  # compute_loss passes everything on
