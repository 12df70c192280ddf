"""Our seam has musubi-tuner's own names: method by method and parameter by parameter, read from its source."""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path

import pytest

from musubi_ext.hosts.extension import OrbitExtension
from musubi_ext.hosts.pocket import PocketTrainer
from musubi_ext.hosts.seam import HostTrainer

HOME = os.environ.get("MUSUBI_TUNER_HOME")
FILES = ("training/trainer_base.py", "wan_train_network.py")  # NetworkTrainer, then WanNetworkTrainer over it
METHODS = sorted(name for name, value in vars(HostTrainer).items() if inspect.isfunction(value) and name != "__init__")
METHODS = [name for name in METHODS if not name.startswith("_") or name == "_build_dataset"]


def host_methods() -> dict[str, list[str]]:
    """Parameters of every method of the trainer classes; a later class overrides an earlier one."""
    if not HOME:
        pytest.skip("MUSUBI_TUNER_HOME is not set: no musubi-tuner checkout to compare with")
    found: dict[str, list[str]] = {}
    for file in FILES:
        tree = ast.parse((Path(HOME) / "src" / "musubi_tuner" / file).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in ("NetworkTrainer", "WanNetworkTrainer"):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        found[method.name] = [argument.arg for argument in method.args.args]
    return found


def parameters(function: object) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, value in inspect.signature(function).parameters.items() if value.kind not in kinds]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_the_seam_is_musubi_tuner_s(name: str) -> None:
    ours, theirs = parameters(getattr(HostTrainer, name)), host_methods()[name]
    if name == "compute_loss":  # v0.3.0 has no global_step yet: the extension passes on whatever it is given
        ours = ours[: max(len(theirs), len(ours) - 1)]
    assert ours == theirs


@pytest.mark.parametrize("name", METHODS)
def test_the_pocket_host_has_the_seam(name: str) -> None:
    own = parameters(getattr(PocketTrainer, name))
    assert own in (parameters(getattr(HostTrainer, name)), ["self"])  # compute_loss passes everything on


def test_the_extension_overrides_nothing_but_the_seam() -> None:
    public = {name for name, value in vars(OrbitExtension).items() if inspect.isfunction(value)}
    assert public - {"__init__", "_validate"} <= set(METHODS)
