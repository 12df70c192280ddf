"""Old versions go with their artifacts; what an alias or evidence refers to stays, whatever is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.evaluation.gate import Check, Decision
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.registry.downloads import cache_root
from musubi_ext.registry.model import load_pair, register_pair
from musubi_ext.registry.promotion import promote, set_candidate
from musubi_ext.registry.prune import delete_copy, delete_parts, old_copies, prune_versions
from musubi_ext.registry.retention import Judged, Retention, judge
from musubi_ext.registry.store import connect, experiment_id
from musubi_ext.registry.versions import versions

NAME = "circle-rotate"
ALL = Retention(keep=0, days=0)
LIMITS = Thresholds.parse({})


def decided(passed: bool) -> Decision:
    return Decision((Check("drift", passed, "drift", 1.0),), LIMITS)


def numbers(client: MlflowClient) -> list[int]:
    return [int(version.version) for version in versions(client, NAME)]


def quiet(_: Judged) -> None:
    """What `prune_versions` would tell."""


@pytest.fixture
def client(other_pair: Callable[..., AdapterPair], uri: str) -> MlflowClient:
    """Five versions, each of its own pair: 2 was the champion when 3 replaced it, 4 was refused, 5 was never judged."""
    for number in range(1, 6):
        register_pair(other_pair(f"pair-{number}", number * 10), NAME, uri=uri)
    for number, passed in ((2, True), (3, True), (4, False)):
        set_candidate(NAME, number, uri=uri)
        promote(NAME, decided(passed), {"drift": number}, uri=uri)
    return connect(uri)


def folders() -> list[str]:
    """Which pairs the artifact store still has."""
    return sorted(path.name.removesuffix(".pair.json") for path in Path("mlartifacts").rglob("*.pair.json"))


def test_only_what_nothing_refers_to_goes_with_its_artifacts(client: MlflowClient) -> None:
    reasons = {int(one.version.version): one.reason for one in judge(client, NAME, ALL)}
    assert reasons == {
        5: "",
        4: "alias candidate",
        3: "alias champion",
        2: "alias previous",
        1: "",
    }
    assert prune_versions(client, [NAME], ALL, dry_run=True, say=quiet) == [f"models:/{NAME}/5", f"models:/{NAME}/1"]
    assert numbers(client) == [5, 4, 3, 2, 1]
    assert prune_versions(client, [NAME], ALL, dry_run=False, say=quiet) == [f"models:/{NAME}/5", f"models:/{NAME}/1"]
    assert numbers(client) == [4, 3, 2]
    assert folders() == ["pair-2", "pair-3", "pair-4"]
    assert load_pair(f"{NAME}@champion", uri=client.tracking_uri).manifest["name"] == "pair-3"


def test_the_newest_and_the_young_stay(client: MlflowClient) -> None:
    assert prune_versions(client, [NAME], Retention(keep=0, days=1), dry_run=False, say=quiet) == []
    assert prune_versions(client, [NAME], Retention(keep=4, days=0), dry_run=False, say=quiet) == [f"models:/{NAME}/1"]


def test_evidence_and_what_it_was_judged_against_stay_without_any_alias(client: MlflowClient) -> None:
    for alias in ("candidate", "champion", "previous"):
        client.delete_registered_model_alias(NAME, alias)
    prune_versions(client, [NAME], ALL, dry_run=False, say=quiet)
    assert numbers(client) == [4, 3, 2]
    assert prune_versions(client, [NAME], Retention(0, 0, refused=True), dry_run=False, say=quiet) == [
        f"models:/{NAME}/4"
    ]
    assert not list(Path("mlartifacts").rglob(f"{NAME}-v4-*"))
    assert list(Path("mlartifacts").rglob(f"{NAME}-v3-*"))


def test_a_refused_version_that_an_alias_points_to_stays(client: MlflowClient) -> None:
    prune_versions(client, [NAME], Retention(0, 0, refused=True), dry_run=False, say=quiet)
    assert numbers(client) == [4, 3, 2]


def test_artifacts_of_two_versions_go_with_the_last(pair: AdapterPair, uri: str) -> None:
    client = connect(uri)
    run = client.create_run(experiment_id(client, "tests", uri)).info.run_id
    for _ in range(2):
        register_pair(pair, NAME, run_id=run, uri=uri)
    set_candidate(NAME, 2, uri=uri)
    prune_versions(client, [NAME], ALL, dry_run=False, say=quiet)
    assert numbers(client) == [2]
    assert load_pair(f"{NAME}/2", uri=uri).manifest == pair.manifest
    client.delete_registered_model_alias(NAME, "candidate")
    prune_versions(client, [NAME], ALL, dry_run=False, say=quiet)
    assert folders() == []


def test_an_alias_set_after_the_judgement_is_honoured(client: MlflowClient) -> None:
    def point(judged: Judged) -> None:
        if int(judged.version.version) == 5:
            client.set_registered_model_alias(NAME, "candidate", "5")

    assert prune_versions(client, [NAME], ALL, dry_run=False, say=point) == [f"models:/{NAME}/1"]
    assert 5 in numbers(client)


def test_folders_that_are_not_ours_are_not_deleted(pair: AdapterPair, uri: str) -> None:
    client = connect(uri)
    client.create_registered_model(NAME)
    run = client.create_run(experiment_id(client, "tests", uri)).info.run_id
    client.log_text(run, "kept", "precious/file.txt")
    for source in (f"runs:/{run}/precious", f"runs:/{run}/pair-000000000000/../precious", "/etc", f"runs:/{run}/"):
        tags = {"evidence.artifact": f"runs:/{run}/evidence/../precious/evidence.json", "gate": "refused: x"}
        client.create_model_version(NAME, source, run_id=run, tags={**tags, "evidence.sha256": "0" * 64})
    prune_versions(client, [NAME], Retention(0, 0, refused=True), dry_run=False, say=quiet)
    assert numbers(client) == []
    assert next(Path("mlartifacts").rglob("precious/file.txt")).read_text() == "kept"


def test_another_versions_evidence_does_not_go_with_a_forged_tag(client: MlflowClient) -> None:
    theirs = client.get_model_version(NAME, "3").tags["evidence.artifact"]
    client.set_model_version_tag(NAME, "5", "evidence.artifact", theirs)
    assert f"models:/{NAME}/5" in prune_versions(client, [NAME], ALL, dry_run=False, say=quiet)
    assert list(Path("mlartifacts").rglob(f"{NAME}-v3-*/evidence.json"))


def test_a_version_whose_run_is_gone_can_go(client: MlflowClient) -> None:
    from mlflow.tracking._tracking_service.utils import _get_store

    run = client.get_model_version(NAME, "1").run_id
    client.delete_run(run)
    _get_store(client.tracking_uri)._hard_delete_run(run)  # what `mlflow gc` does
    assert f"models:/{NAME}/1" in prune_versions(client, [NAME], ALL, dry_run=False, say=quiet)


def test_copies_go_by_their_last_use_and_never_those_of_an_alias(client: MlflowClient) -> None:
    for number in (1, 3):
        load_pair(f"{NAME}/{number}", uri=client.tracking_uri)
    assert old_copies(client, [NAME], 1) == []
    past = time.time() - 40 * 86_400
    for stamps in cache_root().glob("*.json"):
        os.utime(stamps, (past, past))
    (copy,) = old_copies(client, [NAME], 30)
    assert (copy.path / "pair-1.pair.json").is_file()
    assert 39 < copy.days < 41
    assert copy.size == sum(file.stat().st_size for file in copy.path.iterdir())
    (cache_root() / "notes").mkdir()
    delete_copy(copy)
    assert [path.name for path in cache_root().rglob("*.pair.json")] == ["pair-3.pair.json"]
    assert load_pair(f"{NAME}/1", uri=client.tracking_uri).manifest["name"] == "pair-1"
    part = cache_root() / f"{'0' * 64}.part-x"
    part.mkdir()
    os.utime(part, (past, past))
    assert delete_parts() == 1
    assert (cache_root() / "notes").is_dir()


def test_a_rule_that_is_none_is_refused() -> None:
    with pytest.raises(UserError) as told:
        Retention(keep=-1, days=float("nan"))
    assert len(told.value.problems) == 2
