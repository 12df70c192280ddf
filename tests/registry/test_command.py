"""`musubi-ext registry …` as a user types it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.commands.registry import add_arguments, run
from musubi_ext.errors import UserError
from musubi_ext.registry.store import connect, experiment_id
from musubi_ext.storage import sha256


def command(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="musubi-ext registry")
    add_arguments(parser)
    return run(parser.parse_args(words))


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a program reads of a verb, and its exit status in the end."""
    capsys.readouterr()
    status = command(*words, "--json")
    return json.loads(capsys.readouterr().out), status


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of one line a row."""
    monkeypatch.setenv("COLUMNS", "250")


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
    row = next(line for line in capsys.readouterr().out.splitlines() if "orbit" in line)
    assert row.split()[:6] == ["orbit", "2", "2", "1", "2", "–"]
    assert command("show", "orbit@previous") == 0
    shown = capsys.readouterr().out
    assert "candidate, previous" in shown
    assert f"verified  {sha256(pair_folder / 'orbit_h.safetensors')}" in shown
    assert "shaky" in shown


def test_programs_read_json(pair: AdapterPair, pair_folder: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "list") == ([], 0)
    made, _ = answer(capsys, "register", str(pair_folder), "--name", "orbit", "--candidate")
    assert (made["name"], made["version"], made["candidate"]) == ("orbit", 1, True)
    listed, _ = answer(capsys, "list")
    assert [(one["name"], one["versions"], one["aliases"]) for one in listed] == [("orbit", 1, {"candidate": 1})]
    facts, status = answer(capsys, "show", "orbit@candidate")
    assert status == 0
    assert {file["name"]: file["sha256"] for file in facts["files"]} == {
        file.name: sha256(file) for file in pair.files().values()
    }
    assert all(file["verified"] for file in facts["files"])
    assert facts["aliases"] == ["candidate"]
    assert facts["tags"]["pair.task"] == "pocket-i2v"
    assert "MLmodel" not in json.dumps(facts["tags"])
    unseen, _ = answer(capsys, "show", "orbit/1", "--no_verify")
    assert [file["verified"] for file in unseen["files"]] == [None] * 3


def test_show_says_which_file_of_the_store_is_not_the_registered_one(
    pair: AdapterPair, pair_folder: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command("register", str(pair_folder), "--name", "orbit")
    file = next(Path("mlartifacts").rglob("artifacts/orbit_l.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    facts, status = answer(capsys, "show", "orbit/1")
    assert status == 1
    assert [one["name"] for one in facts["files"] if not one["verified"]] == ["orbit_l.safetensors"]
    assert command("show", "orbit/1") == 1
    shown = capsys.readouterr().out
    assert "REFUSED" in shown
    assert f"found {sha256(file)}" in shown
    assert f"expected sha256 {pair.manifest['experts']['low']['sha256']}" in shown


def test_registering_goes_to_the_training_run_if_the_store_has_it(
    other_pair: Callable[..., AdapterPair], uri: str
) -> None:
    client = connect(uri)
    run_id = client.create_run(experiment_id(client, "tests", uri)).info.run_id
    for name, named in (("known", run_id), ("gone", "0" * 32), ("hostile", "../../x")):
        pair = other_pair(name, training={"mlflow_run": named})
        command("register", str(pair.path), "--name", name)
        found = client.get_model_version(name, "1").run_id
        assert (found == run_id) == (name == "known")


def test_mistakes_are_one_clear_error(uri: str, tmp_path: Path) -> None:
    mistakes = (
        ("show", "orbit@champion"),
        ("show", "orbit"),
        ("diff", "orbit/1", "orbit@champion"),
        ("rollback", "orbit", "--reason", "x"),
        ("prune", "orbit"),
    )
    for words in mistakes:
        with pytest.raises(UserError, match="orbit"):
            command(*words)
    with pytest.raises(UserError, match=r"nowhere"):
        command("register", str(tmp_path / "nowhere"), "--name", "orbit")
    with pytest.raises(UserError, match=r"webhooks are sent by an MLflow server"):
        command("webhook", "list")


def test_other_programs_models_are_listed_and_left_alone(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = connect(uri)
    client.create_registered_model("it's \x1b[31m[bold]theirs")
    listed, _ = answer(capsys, "list")
    assert [(one["name"], one["versions"]) for one in listed] == [("it's \x1b[31m[bold]theirs", None)]
    assert command("list") == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown
    assert "it's \\x1b[31m[bold]theirs" in shown
    pruned, _ = answer(capsys, "prune", "--keep", "0", "--older_than", "0")
    assert pruned["deleted"] == []


def test_help_does_not_load_mlflow() -> None:
    code = (
        "import argparse, sys; from musubi_ext.commands.registry import add_arguments;"
        "add_arguments(argparse.ArgumentParser()); sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
