"""The alarm when a version's videos are worse than promoted: when it rings, what it compares, where it is seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from finished_jobs import Finished
from jobs_double import JobsDouble
from test_http_operations import gauges
from test_uploads import ADDRESS

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.evaluation.result import Result, write_results
from musubi_ext.registry.gate_file import Gate
from musubi_ext.registry.judgement import judge
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.names import ModelReference
from musubi_ext.registry.promotion import promote_version
from musubi_ext.registry.store import connect
from musubi_ext.registry.versions import find_version
from musubi_ext.storage import write_json
from serving.adapters_live import LiveAdapters
from serving.api import create_app
from serving.config import ServiceConfig
from serving.versions.drift import DriftAlarm
from serving.versions.online import Online
from serving.versions.promises import Promise
from serving.versions.version_ref import RegistryDownError, VersionRef

NAME = "orbit-pair"
GATE = Path(__file__).resolve().parents[2] / "mlflow_projects" / "gate.toml"
V1 = VersionRef(NAME, 1, {"a": "0" * 64})


def told(value: float | None, size: str = "64x64") -> dict[str, Any]:
    return {"value": value, "resolution": size}


@pytest.mark.parametrize(
    ("make", "rings"),
    [
        (lambda i: 1.0 + 0.1 * (i % 3), False),  # as promised
        (lambda i: 1.9 + 0.1 * (i % 3), True),
        (lambda i: 0.2, False),  # better
        (lambda i: 0.1 if i % 4 else 6.0, False),  # worse on average, by one outlier in four: too little is known
    ],
)
def test_alarm(make: Callable[[int], float], rings: bool) -> None:
    alarm = DriftAlarm(window=8)
    alarm.promise(
        "a", {"subject_drift": Promise(1.1), "motion_magnitude": Promise(0.0), "orbit_steadiness": Promise(1)}
    )
    for i in range(20):
        alarm.add("a", {"subject_drift": told(make(i)), "orbit_steadiness": told(None), "ssim": told(0.1)})
        alarm.add("b", {"subject_drift": told(100.0)})  # nothing was promised of it
    (found,) = alarm.standings()
    assert (found.version, found.metric, found.videos, found.ringing) == ("a", "subject_drift", 8, rings)
    assert found.promised == 1.1


def test_few_videos_and_those_of_another_size_ring_nothing() -> None:
    alarm = DriftAlarm(window=50)
    alarm.promise("a", {"subject_drift": Promise(1.0, "64x64")})
    for _ in range(4):
        alarm.add("a", {"subject_drift": told(100.0)})
    for _ in range(20):
        alarm.add("a", {"subject_drift": told(700.0, "480x480")})  # pixels of a larger picture
    assert alarm.standings() == []
    alarm.add("a", {"subject_drift": told(100.0)})
    (found,) = alarm.standings()
    assert (found.mean, found.videos, found.ringing) == (100.0, 5, True)


class Says:
    """A registry with promises of our own."""

    def __init__(self, **promised: Promise) -> None:
        self.promised_numbers: Any = promised
        self.asked = 0

    def promised(self, version: VersionRef) -> dict[str, Promise]:
        self.asked += 1
        if isinstance(self.promised_numbers, Exception):
            raise self.promised_numbers
        return dict(self.promised_numbers)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Finished]:
    found = Finished(tmp_path)
    yield found
    found.database.close()


@pytest.fixture
def config() -> ServiceConfig:
    return ServiceConfig.of({"evaluation": {"alarm_window": 5}})


def test_it_begins_and_ends_once_and_a_restart_forgets_nothing(
    jobs: Finished, config: ServiceConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="serving.versions.online")
    registry = Says(temporal_flicker=Promise(1.0))
    online = Online(jobs, config, registry)
    for _ in range(5):
        jobs.add(V1, temporal_flicker=1.0)
        jobs.add(V1, {"strength_high": 0.2, "strength_low": 1.0}, temporal_flicker=50.0)  # not what was promoted
        jobs.add(VersionRef(), temporal_flicker=50.0)  # nor is the base
    online.look()
    assert (online.alarms, caplog.messages) == ([], [])
    for _ in range(4):
        jobs.add(V1, temporal_flicker=3.0)
        online.look()
        online.look()
    (alarm,) = online.alarms
    assert (alarm.mean, alarm.promised) == (2.6, 1.0)
    said = "models:/orbit-pair/1 got worse than promoted: temporal flicker 2.2 over 5 videos, promoted with 1"
    assert [message for message in caplog.messages if "got worse" in message] == [said]

    again = Online(jobs, config, registry)  # after a restart
    again.look()
    assert [str(one) for one in again.alarms] == ["temporal flicker 2.6 over 5 videos, promoted with 1"]
    for _ in range(5):
        jobs.add(V1, temporal_flicker=1.0)
    for watch in (online, again):
        watch.look()
        assert watch.alarms == []
        (standing,) = watch.state()["drift"]
        assert (standing["mean"], standing["ringing"]) == (1.0, False)
    assert len([message for message in caplog.messages if "as promoted again" in message]) == 2  # of two watches


def test_an_alarm_is_seen_in_metrics_and_models(
    jobs: Finished, config: ServiceConfig, uri: str, make_pair: Callable[..., AdapterPair], tmp_path: Path
) -> None:
    register_pair(make_pair(1), NAME, uri=uri, evaluation={"temporal_flicker": 1.0})
    adapters = LiveAdapters(config.model_copy(update={"pair": f"models:/{NAME}/1", "tracking_uri": uri}))
    for _ in range(5):
        jobs.add(V1, temporal_flicker=3.0)
    online = Online(jobs, config, adapters)
    online.look()
    app = create_app(JobsDouble(tmp_path), adapters.config, adapters=adapters, online=lambda: online)
    client = TestClient(app, base_url=ADDRESS)
    found = gauges(client.get("/metrics").text)
    key = (f"{NAME}/1", "temporal_flicker")
    names = ("drift_mean", "drift_promised", "drift_alarm")
    assert [found[f"musubi_ext_{name}"][key] for name in names] == [3.0, 1.0, 1.0]
    assert found["musubi_ext_online_evaluation_videos"] == {("dropped",): 0, ("noted",): 0, ("unsent",): 0}
    (version,) = (model for model in client.get("/v1/models").json()["data"] if model["id"] == f"{NAME}/1")
    assert version["alarm"] == "temporal flicker 3 over 5 videos, promoted with 1"


def test_a_registry_that_does_not_answer_is_asked_again_and_costs_nothing(
    jobs: Finished, config: ServiceConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Says()
    registry.promised_numbers = RegistryDownError("the registry does not answer")
    online = Online(jobs, config, registry)
    for _ in range(5):
        jobs.add(V1, temporal_flicker=3.0)
    for _ in range(3):
        online.look()
    assert (registry.asked, caplog.text.count("not watched for drift so far")) == (1, 1)
    registry.promised_numbers = {"temporal_flicker": Promise(1.0)}
    monkeypatch.setattr("serving.versions.online.time.monotonic", lambda: 1e9)  # a minute later
    online.look()
    assert len(online.alarms) == 1


def results(folder: Path, name: str, drift: float, flicker: float) -> Path:
    """Twelve scenes as a promotion measures them; the values lie evenly around these."""
    clips = {}
    for scene in range(12):
        off = (scene - 5.5) / 100
        values = {"subject_drift": drift + off, "temporal_flicker": flicker + off, "motion_ratio": 1.0,
                  "direction_subject_correct": 1.0}  # fmt: skip
        masks = {"subject_drift": "color", "direction_subject_correct": "color"}
        clips[f"scene{scene}"] = {
            metric: Result(value, "px", 16, "64x64", "ours", masks=masks.get(metric, ""), coverage=1.0)
            for metric, value in values.items()
        }
    path = folder / f"{name}.json"
    write_results(path, clips)
    return path


def test_a_promoted_versions_promise_is_what_the_verdict_was_about(
    uri: str, make_pair: Callable[..., AdapterPair], tiny_config: Callable[..., ServiceConfig], tmp_path: Path
) -> None:
    """With the registry's own writing of evidence: were it to write other files or names, this fails."""
    number = register_pair(make_pair(1), NAME, uri=uri, evaluation={"subject_drift": 99.0})
    client, folder = connect(uri), tmp_path / "evidence"
    folder.mkdir()
    against, candidate = results(folder, "base", 4.0, 2.0), results(folder, "candidate", 1.5, 0.5)
    found = judge(against, candidate, Gate.load(GATE), {}, first=True)
    write_json(folder / "verdict.json", found.document)
    version = find_version(client, ModelReference(NAME, version=number))
    promoted = promote_version(client, version, None, found.decision, {}, uri=uri, files=[folder])
    assert promoted.promoted, promoted.reasons

    adapters = LiveAdapters(tiny_config(pair=f"models:/{NAME}@champion", tracking_uri=uri))
    promise = adapters.promised(adapters.resolve())
    assert promise["subject_drift"] == Promise(pytest.approx(1.5), "64x64")  # type: ignore[arg-type]
    assert promise["temporal_flicker"].mean == pytest.approx(0.5)

    stored = next((tmp_path / "mlartifacts").rglob("candidate.json"))
    stored.write_text(stored.read_text().replace("1.4", "0.4"))
    with pytest.raises(UserError, match="not those that were judged"):
        adapters.promised(adapters.resolve())
