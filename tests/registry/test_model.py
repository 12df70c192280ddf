"""A pair goes into the registry and comes back the same, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.registry.model import load_pair, register_pair
from musubi_ext.registry.model import training_run as found_run
from musubi_ext.registry.promotion import set_candidate
from musubi_ext.registry.runs import KEY_TAG, OFFLINE
from musubi_ext.registry.store import connect, experiment_id
from musubi_ext.registry.versions import checksums
from musubi_ext.storage import sha256

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)

NAME = "circle-rotate"
FILES = ["orbit.pair.json", "orbit_h.safetensors", "orbit_l.safetensors"]


def training_run(uri: str) -> str:
    client = connect(uri)
    return str(client.create_run(experiment_id(client, "tests", uri)).info.run_id)


def stored(folder: Path, name: str) -> Path:
    """Where the artifact store of a test keeps one file."""
    return next((folder / "mlartifacts").rglob(f"artifacts/{name}"))


def test_version_holds_three_files_and_their_checksums(pair: AdapterPair, uri: str, tmp_path: Path) -> None:
    run = training_run(uri)
    number = register_pair(pair, NAME, evaluation={"subject_drift": 1.3}, run_id=run, uri=uri)
    version = connect(uri).get_model_version(NAME, str(number))
    assert number == 1
    assert version.run_id == run
    assert checksums(version) == {name: sha256(stored(tmp_path, name)) for name in FILES}
    assert sorted(path.name for path in stored(tmp_path, FILES[0]).parent.iterdir()) == FILES
    assert version.tags["evaluation.subject_drift"] == "1.3"
    assert version.tags["pair.task"] == "pocket-i2v"
    model = stored(tmp_path, FILES[0]).parents[1]
    assert not list(model.rglob("*.pkl"))
    assert str(tmp_path) not in (model / "MLmodel").read_text()
    assert str(Path.cwd()) not in (model / "MLmodel").read_text()


def test_pair_comes_back_by_alias_and_by_number(pair: AdapterPair, uri: str, tmp_path: Path) -> None:
    number = register_pair(pair, NAME, uri=uri)
    set_candidate(NAME, number, uri=uri)
    for reference in (f"models:/{NAME}@candidate", f"models:/{NAME}/{number}"):
        back = load_pair(reference, uri=uri)
        assert back.manifest == pair.manifest
    kept = load_pair(f"{NAME}/1", uri=uri, destination=tmp_path / "kept")
    assert kept.manifest == pair.manifest
    assert sorted(path.name for path in (tmp_path / "kept").rglob("orbit*")) == FILES


def test_registering_twice_gives_two_versions_that_both_load(pair: AdapterPair, uri: str) -> None:
    run = training_run(uri)
    assert [register_pair(pair, NAME, run_id=run, uri=uri) for _ in range(2)] == [1, 2]
    assert load_pair(f"{NAME}/1", uri=uri).manifest == load_pair(f"{NAME}/2", uri=uri).manifest


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_refused_by_name(pair: AdapterPair, uri: str, tmp_path: Path, name: str) -> None:
    register_pair(pair, NAME, uri=uri)
    file = stored(tmp_path, name)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"models:/{NAME}/1: {name} changed since it was registered"):
        load_pair(f"{NAME}/1", uri=uri)


def test_missing_and_added_files_are_refused_together(pair: AdapterPair, uri: str, tmp_path: Path) -> None:
    register_pair(pair, NAME, uri=uri)
    stored(tmp_path, FILES[1]).rename(stored(tmp_path, FILES[1]).with_name("extra.safetensors"))
    with pytest.raises(UserError) as told:
        load_pair(f"{NAME}/1", uri=uri)
    assert [FILES[1] in told.value.problems[0], "extra.safetensors" in told.value.problems[1]] == [True, True]


def test_a_version_whose_store_is_gone_and_one_without_checksums(pair: AdapterPair, uri: str, tmp_path: Path) -> None:
    register_pair(pair, NAME, uri=uri)
    client = connect(uri)
    source = client.get_model_version(NAME, "1").source
    client.create_model_version(NAME, source)
    with pytest.raises(UserError, match=f"models:/{NAME}/2: the version carries no checksums"):
        load_pair(f"{NAME}/2", uri=uri)
    (tmp_path / "mlartifacts").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"models:/{NAME}/1: its files are gone"):
        load_pair(f"{NAME}/1", uri=uri)


def test_a_damaged_pair_is_not_registered(pair: AdapterPair, pair_folder: Path, uri: str) -> None:
    file = pair_folder / FILES[1]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match=FILES[1]):
        register_pair(pair, NAME, uri=uri)
    assert not connect(uri).search_registered_models()


@pytest.mark.parametrize("name", ["../x", "a/b", "a\nb", "x" * 10_000])
def test_bad_names_never_reach_the_store(pair: AdapterPair, uri: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="model name"):
        register_pair(pair, name, uri=uri)
    assert not (tmp_path / "mlartifacts").exists()


def test_the_run_of_a_training_that_began_while_the_store_was_away(
    other_pair: Callable[..., AdapterPair], uri: str
) -> None:
    """The manifest has our own id of it; once the run is sent, the store knows it by another."""
    key = "a" * 32
    pair = other_pair("away", training={"mlflow_run": OFFLINE + key})
    client = connect(uri)
    assert found_run(client, pair) is None
    run = client.create_run(experiment_id(client, "tests", uri), tags={KEY_TAG: key})
    assert found_run(client, pair) == run.info.run_id
