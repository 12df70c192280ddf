"""A store that others can write to: none of its tags, manifests or file names becomes a path of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.registry.downloads import cache_root, cached
from musubi_ext.registry.model import load_pair, open_pair, register_pair, training_run
from musubi_ext.registry.store import connect
from musubi_ext.registry.versions import FILE_TAG, checksums
from musubi_ext.storage import sha256

NAME = "circle-rotate"
DIGEST = "0" * 64


@pytest.fixture
def client(pair: AdapterPair, uri: str) -> MlflowClient:
    """A registry whose version 1 is sound."""
    register_pair(pair, NAME, uri=uri)
    return connect(uri)


def forge(client: MlflowClient, tags: Mapping[str, str], source: str | None = None) -> Any:
    """A further version of the same source, with these file tags alone."""
    sound = client.get_model_version(NAME, "1")
    return client.create_model_version(NAME, source or sound.source, tags=dict(tags))


@pytest.mark.parametrize(
    "name", ["../../orbit_h.safetensors", "/etc/x.safetensors", "a/b.safetensors", "passwd", "..", "x.pkl"]
)
def test_a_tag_that_names_a_path_is_refused_before_it_is_one(client: MlflowClient, name: str) -> None:
    # MLflow's own store refuses some of these keys; another server may not.
    sound = checksums(client.get_model_version(NAME, "1")) | {name: DIGEST}
    tags = [ModelVersionTag(FILE_TAG + known, digest) for known, digest in sound.items()]
    version = ModelVersion(NAME, "1", 0, tags=tags)
    with pytest.raises(UserError, match="not registered by musubi-ext"):
        cached(client, version)
    assert not cache_root().exists()


@pytest.mark.parametrize("digest", ["", "x", "0" * 63, "A" * 64, "../../../../tmp/x"])
def test_a_tag_that_is_no_checksum_is_refused(client: MlflowClient, digest: str) -> None:
    version = forge(client, {f"{FILE_TAG}orbit_h.safetensors": digest})
    with pytest.raises(UserError):
        cached(client, version)
    assert not cache_root().exists()


def test_two_or_four_files_are_no_pair(client: MlflowClient) -> None:
    names = ("a.pair.json", "a_h.safetensors", "a_l.safetensors", "b.pair.json")
    for chosen in (names[:2], names, names[1:3]):
        with pytest.raises(UserError, match="expected checksums of two"):
            cached(client, forge(client, {FILE_TAG + name: DIGEST for name in chosen}))


@pytest.mark.parametrize(
    ("file", "digest"),
    [
        ("../outside.safetensors", None),
        ("/etc/passwd.safetensors", None),
        ("nul\0.safetensors", None),
        ("x" * 10_000 + ".safetensors", None),
        ("orbit_l.safetensors", None),
        ("orbit_h.safetensors", "f" * 64),
    ],
)
def test_a_manifest_that_names_other_files_is_refused(
    client: MlflowClient, uri: str, file: str, digest: str | None
) -> None:
    """The forger changed the manifest in the store and its checksum in the tags."""
    manifest = next(Path("mlartifacts").rglob("orbit.pair.json"))
    content = json.loads(manifest.read_text())
    entry = content["experts"]["high"]
    entry["file"], entry["sha256"] = file, digest or entry["sha256"]
    manifest.write_text(json.dumps(content))
    client.set_model_version_tag(NAME, "1", f"{FILE_TAG}orbit.pair.json", sha256(manifest))
    Path("outside.safetensors").write_bytes(b"secret")
    with pytest.raises(UserError) as told:
        load_pair(f"{NAME}/1", uri=uri)
    assert len(str(told.value)) < 11_000
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        {"experts": []},
        {"experts": {"high": "x", "low": 1}},
        {"training": [1], "name": ["../../x"]},
        {"experts": {"middle": "../x"}},
        {"schema": "1"},
        {"task": {"a": 1}},
    ],
)
def test_a_manifest_of_another_shape_is_refused_in_words(
    client: MlflowClient, uri: str, change: dict[str, Any]
) -> None:
    manifest = next(Path("mlartifacts").rglob("orbit.pair.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    client.set_model_version_tag(NAME, "1", f"{FILE_TAG}orbit.pair.json", sha256(manifest))
    if "training" in change:  # what is not needed to use the pair is not looked at
        assert training_run(client, load_pair(f"{NAME}/1", uri=uri)) is None
    else:
        with pytest.raises(UserError):
            load_pair(f"{NAME}/1", uri=uri)


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_manifest_says_is_a_pair_or_a_sentence(
    pair: AdapterPair, tmp_path: Path, data: st.DataObject
) -> None:
    content = json.loads(pair.path.read_text())
    place = content if data.draw(st.booleans()) else content["experts"]
    if data.draw(st.booleans()):
        place = content["experts"][data.draw(st.sampled_from(["high", "low"]))]
    place[data.draw(st.sampled_from(sorted(place)) | st.text(max_size=5))] = data.draw(anything)
    folder = tmp_path / "forged"
    folder.mkdir(exist_ok=True)
    (folder / pair.path.name).write_text(json.dumps(content))
    tags = {file.name: sha256(file) for file in pair.files().values()}
    version = ModelVersion(NAME, "1", 0, tags=[ModelVersionTag(FILE_TAG + name, tags[name]) for name in tags])
    try:
        opened = open_pair(folder, version)
    except UserError:
        return
    assert {file.parent for file in opened.files().values()} == {folder}
    assert {file.name for file in opened.files().values()} == set(tags)


def test_a_manifest_that_nests_without_end_is_refused(client: MlflowClient, uri: str) -> None:
    manifest = next(Path("mlartifacts").rglob("orbit.pair.json"))
    manifest.write_text("[" * 200_000)
    client.set_model_version_tag(NAME, "1", f"{FILE_TAG}orbit.pair.json", sha256(manifest))
    with pytest.raises(UserError, match="no JSON"):
        load_pair(f"{NAME}/1", uri=uri)


def test_a_manifest_of_16_megabytes_is_not_read(client: MlflowClient, uri: str) -> None:
    manifest = next(Path("mlartifacts").rglob("orbit.pair.json"))
    manifest.write_text(manifest.read_text() + " " * (17 << 20))
    client.set_model_version_tag(NAME, "1", f"{FILE_TAG}orbit.pair.json", sha256(manifest))
    with pytest.raises(UserError, match="too long for a pair manifest"):
        load_pair(f"{NAME}/1", uri=uri)


def test_another_folder_as_source_gives_nothing_but_the_files_named(
    client: MlflowClient, uri: str, tmp_path: Path
) -> None:
    """A source can be any folder the artifact store reaches; of it only files of a pair's names are asked for."""
    (tmp_path / "private" / "artifacts").mkdir(parents=True)
    (tmp_path / "private" / "artifacts" / "id_rsa").write_text("key")
    tags = {FILE_TAG + name: digest for name, digest in checksums(client.get_model_version(NAME, "1")).items()}
    version = forge(client, tags, (tmp_path / "private").as_uri())
    with pytest.raises(UserError) as told:
        cached(client, version)
    assert "id_rsa was added" in str(told.value)
    assert not list(cache_root().rglob("id_rsa"))


def test_a_link_in_the_artifact_store_leads_nowhere(client: MlflowClient, uri: str) -> None:
    file = next(Path("mlartifacts").rglob("artifacts/orbit_h.safetensors")).absolute()
    Path("outside").write_bytes(b"secret")
    file.unlink()
    file.symlink_to(Path("outside").absolute())
    with pytest.raises(UserError, match=r"orbit_h\.safetensors"):
        load_pair(f"{NAME}/1", uri=uri)
    assert list(cache_root().iterdir()) == []


def test_a_pair_of_a_name_that_stores_refuse_is_not_registered(other_pair: Any, uri: str) -> None:
    pair = other_pair("Kreisfahrt ä")
    with pytest.raises(UserError, match="file name"):
        register_pair(pair, NAME, uri=uri)
    assert not connect(uri).search_registered_models()
