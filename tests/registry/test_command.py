"""`musubi-ext registry …` as a user types it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.registry.command import add_arguments, run
from musubi_ext.registry.store import connect

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)


def command(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="musubi-ext registry")
    add_arguments(parser)
    return run(parser.parse_args(words))


def test_register_list_show_rollback(
    pair: AdapterPair, pair_folder: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("list") == 0
    assert "no registered model yet" in capsys.readouterr().out
    assert command("register", str(pair_folder), "--name", "orbit") == 0
    assert capsys.readouterr().out == "models:/orbit/1\n"
    assert command("register", str(pair_folder), "--name", "orbit", "--candidate") == 0
    assert capsys.readouterr().out == "models:/orbit/2  (candidate)\n"
    client = connect(uri)
    client.set_registered_model_alias("orbit", "champion", "2")
    client.set_registered_model_alias("orbit", "previous", "1")
    assert command("rollback", "orbit", "--reason", "shaky") == 0
    assert capsys.readouterr().out == "orbit: champion = 1, previous = 2\n"
    assert command("list", "--mlflow_tracking_uri", uri) == 0
    assert capsys.readouterr().out == "orbit  2 versions  candidate = 2, champion = 1, previous = 2\n"
    assert command("show", "orbit@previous") == 0
    shown = capsys.readouterr().out
    assert "aliases" in shown
    assert "candidate, previous" in shown
    assert "sha256.orbit_h.safetensors" in shown
    assert "to version 1: shaky" in shown


def test_mistakes_are_one_clear_error(uri: str, tmp_path: Path) -> None:
    for words in (("show", "orbit@champion"), ("show", "orbit"), ("rollback", "orbit", "--reason", "x")):
        with pytest.raises(UserError, match="orbit"):
            command(*words)
    with pytest.raises(UserError, match=r"nowhere"):
        command("register", str(tmp_path / "nowhere"), "--name", "orbit")


def test_help_does_not_load_mlflow() -> None:
    code = (
        "import argparse, sys; from musubi_ext.registry.command import add_arguments;"
        "add_arguments(argparse.ArgumentParser()); sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
