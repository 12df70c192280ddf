"""What serves follows the registry: promotions are taken, damaged pairs are not, and a job keeps its version."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.store import connect
from musubi_ext.storage import sha256
from serving.adapters_live import BASE, LiveAdapters, RegistryDownError, VersionRef
from serving.config import ServiceConfig
from serving.engine import Engine
from serving.making.request import JobRequest
from serving.making.stages import StageStore
from serving.versions.promises import Promise

NAME = "orbit-pair"


@pytest.fixture
def promote(uri: str, make_pair: Callable[..., AdapterPair]) -> Callable[..., int]:
    """Register a pair of this seed and point the alias champion to it."""

    def do(seed: int, **fields: Any) -> int:
        number = register_pair(make_pair(seed, f"orbit{seed}", **fields), NAME, uri=uri)
        connect(uri).set_registered_model_alias(NAME, "champion", str(number))
        return number

    return do


@pytest.fixture
def live(uri: str, tiny_config: Callable[..., ServiceConfig]) -> LiveAdapters:
    config = tiny_config(pair=f"models:/{NAME}@champion", tracking_uri=uri, adapters={"every": 0.05})
    return LiveAdapters(config)


def damage(folder: Path, name: str) -> Path:
    """Change one bit of the newest file of that name in the artifact store."""
    path = max(folder.rglob(f"artifacts/{name}"), key=lambda file: file.stat().st_mtime)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    return path


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return found


def test_promotion_is_taken_while_running_and_a_rollback_too(live: LiveAdapters, promote: Callable[..., int]) -> None:
    promote(1)
    live.start()
    try:
        first = live.resolve()
        assert str(first) == f"models:/{NAME}/1"
        assert sorted(first.checksums) == ["orbit1.pair.json", "orbit1_h.safetensors", "orbit1_l.safetensors"]
        promote(2)
        until(lambda: live.current().version == 2)
        connect(str(live.config.tracking_uri)).set_registered_model_alias(NAME, "champion", "1")
        until(lambda: live.current() == first)
    finally:
        live.close()


def test_damaged_champion_is_refused_visibly_and_the_old_one_stays(
    live: LiveAdapters, promote: Callable[..., int], tmp_path: Path
) -> None:
    promote(1)
    live.refresh()
    promote(2)
    damage(tmp_path / "mlartifacts", "orbit2_l.safetensors")
    live.refresh()
    assert live.current().version == 1
    refused = live.state()["refused"]
    assert refused["version"] == f"models:/{NAME}/2"
    assert "orbit2_l.safetensors" in refused["reason"]
    with pytest.raises(UserError, match=r"orbit2_l\.safetensors"):
        live.load(live.resolve(f"{NAME}/2"))  # asked for by name it fails the request
    connect(str(live.config.tracking_uri)).set_registered_model_alias(NAME, "champion", "1")
    live.refresh()
    assert live.state()["refused"] is None


def test_pair_of_another_base_is_refused_at_the_promotion(live: LiveAdapters, promote: Callable[..., int]) -> None:
    promote(1)
    live.refresh()
    promote(2, task="t2v-A14B")
    live.refresh()
    assert live.current().version == 1
    assert "hands over at 0.9" in live.state()["refused"]["reason"]


def test_jobs_before_and_after_a_promotion_each_have_their_own_version(
    live: LiveAdapters, promote: Callable[..., int], make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    quiet: dict[str, Any] = {"on_step": lambda _: None, "cancelled": lambda: False}
    promote(1)
    engine = Engine(live.config, live)
    accepted = live.resolve()
    promote(2)
    live.refresh()
    made = {}
    for name, version in {"new": live.resolve(), "old": accepted, "base": live.resolve("none")}.items():
        made[name] = engine.run(make_job(), version=version, stage_store=StageStore(tmp_path / name), **quiet)
    assert {name: str(done.version) for name, done in made.items()} == {
        "new": f"models:/{NAME}/2", "old": f"models:/{NAME}/1", "base": "base",
    }  # fmt: skip
    assert made["old"].versions["pair"]["name"] == "orbit1"
    assert len({sha256(done.video) for done in made.values()}) == 3
    assert live.resolve() == VersionRef(**live.resolve().as_dict())


def test_tags_that_changed_after_acceptance_fail_the_job(live: LiveAdapters, promote: Callable[..., int]) -> None:
    promote(1)
    accepted = live.resolve()
    client = connect(str(live.config.tracking_uri))
    client.set_model_version_tag(NAME, "1", "sha256.orbit1_h.safetensors", "0" * 64)
    live._pairs.clear()  # another worker, which has not loaded it yet
    with pytest.raises(UserError, match="changed since the job was accepted"):
        live.load(accepted)


def test_names_that_mean_nothing_are_said(live: LiveAdapters, promote: Callable[..., int]) -> None:
    promote(1)
    for asked, said in (
        (f"{NAME}/9", "no version 9"),
        (f"{NAME}@nobody", "no alias 'nobody'"),
        ("other@champion", "no registered model 'other'"),
        ("../etc/passwd", "expected"),
    ):
        with pytest.raises(UserError, match=said):
            live.resolve(asked)


def test_without_a_pair_named_the_base_serves_until_something_is_promoted(
    uri: str, tiny_values: dict[str, Any], make_pair: Callable[..., AdapterPair]
) -> None:
    config = ServiceConfig.of({"base": tiny_values["base"], "tracking_uri": uri})
    adapters = LiveAdapters(config)
    assert adapters.resolve() == BASE
    register_pair(make_pair(1), "circle-rotate", uri=uri)
    connect(uri).set_registered_model_alias("circle-rotate", "champion", "1")
    adapters.refresh()
    assert str(adapters.resolve()) == "models:/circle-rotate/1"


def test_without_a_store_nothing_is_made_for_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_values: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert LiveAdapters(ServiceConfig.of({"base": tiny_values["base"]})).resolve() == BASE
    assert not list(tmp_path.iterdir())


def test_named_pair_that_is_not_there_is_no_base_in_disguise(live: LiveAdapters) -> None:
    with pytest.raises(UserError, match=f"no registered model '{NAME}'"):
        live.resolve()


def test_registry_that_is_down_is_nobodys_mistake_and_the_current_version_serves(
    live: LiveAdapters, promote: Callable[..., int], tmp_path: Path
) -> None:
    promote(1)
    version = live.resolve()
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    live.refresh()
    assert live.current() == version
    assert live.load(version) is not None  # it was loaded before
    assert "does not answer" in live.state()["problem"]
    with pytest.raises(RegistryDownError) as caught:
        live.resolve(f"{NAME}/1")
    assert str(tmp_path) not in str(caught.value)
    live._pairs.clear()
    with pytest.raises(RegistryDownError):  # another attempt may find it
        live.load(version)


def test_promise_of_a_version_is_its_evaluation(
    live: LiveAdapters, uri: str, make_pair: Callable[..., AdapterPair]
) -> None:
    register_pair(make_pair(1), NAME, uri=uri, evaluation={"subject_drift": 1.25, "note": "fine"})
    register_pair(make_pair(1), NAME, uri=uri, evaluation={"pair.subject_drift": 1.5, "base.subject_drift": 4.0})
    assert live.promised(live.resolve(f"{NAME}/1")) == {"subject_drift": Promise(1.25)}
    assert live.promised(live.resolve(f"{NAME}/2"))["subject_drift"] == Promise(1.5)  # as the demo writes it
    assert live.promised(BASE) == {}


def test_folder_whose_files_change_is_another_version(
    tiny_config: Callable[..., ServiceConfig], make_pair: Callable[..., AdapterPair]
) -> None:
    folder = make_pair(1).path.parent
    adapters = LiveAdapters(tiny_config(pair=str(folder)))
    version = adapters.resolve()
    assert (str(version), version.version) == ("orbit (a folder)", 0)
    assert adapters.load(version) is not None
    AdapterPair.save(folder, "orbit", *(make_pair(2).state_dict(expert) for expert in _experts()))
    fresh = LiveAdapters(adapters.config)
    with pytest.raises(UserError, match="changed since the job was accepted"):
        fresh.load(version)


def test_webhooks_are_off_without_a_secret(live: LiveAdapters) -> None:
    with pytest.raises(UserError, match="webhook_secret_env"):
        live.notify(b"{}", {})


def _experts() -> list[Any]:
    from musubi_ext.schedule.experts import Expert

    return list(Expert)
