"""`musubi-ext registry promote` on a small pipeline: real videos, real results, the real gate, a real store."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.commands import registry_promote
from musubi_ext.commands.registry_promote import OVERTAKEN, REFUSED, WAITING
from musubi_ext.errors import UserError
from musubi_ext.evaluation.truth import Truth
from musubi_ext.pocket.config import random_pipeline
from musubi_ext.pocket.random_lora import random_lora
from musubi_ext.promotion import clips as suite_clips
from musubi_ext.promotion import judge as promotion_judge
from musubi_ext.registry.alias_moves import Pointers
from musubi_ext.registry.gate_file import Gate
from musubi_ext.registry.model import load_pair, register_pair
from musubi_ext.registry.promotion import history, set_candidate
from musubi_ext.registry.store import connect
from musubi_ext.storage import sha256
from musubi_ext.video import read_comment, read_video, write_mp4

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)

NAME = "orbit"
SUITE = "[suite]\nscenes = 3\nsize = [32, 32]\nframes = 5\nsteps = 1\n"
SHARPER = (
    "[gate]\nmin_scenes = 3\n[motion]\nmetric = 'motion_ratio'\nmin = 0.5\n"
    "[metrics.sharpness_ratio]\nbetter = 'higher'\nmin_effect = 0\nmin = 5\n"
)
# Of random weights, by sharpness_ratio of every scene: weak < fair < sharp.
PAIRS = {"weak": (1, 2, 0.1), "fair": (1, 2, 1.0), "sharp": (3, 4, 1.0)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_pipeline(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterPair]:
    folder = tmp_path_factory.mktemp("pairs")
    found = {}
    for name, (high, low, strength) in PAIRS.items():
        weights = random_lora(high, 2, up=strength), random_lora(low, 2, up=strength)
        found[name] = AdapterPair.save(folder / name, "orbit", *weights)
    found["foreign"] = AdapterPair.save(
        folder / "foreign", "orbit", random_lora(1, 2), random_lora(2, 2), task="t2v-A14B"
    )
    return found


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache, shared by these tests: what one filmed the next finds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def client(uri: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(kept))
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    return connect(uri)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate.toml"
    path.write_text(SHARPER + SUITE)
    return path


@pytest.fixture
def promote(gate: Path, base: Path, uri: str) -> Callable[..., int]:
    def call(*words: str, toml: Path = gate, name: str = NAME) -> int:
        return command("promote", name, "--gate", str(toml), "--base", str(base), "--workers", "1", *words)

    return call


def command(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="musubi-ext registry")
    verbs = parser.add_subparsers(dest="verb")
    for verb in ("promote", "approve", "rollback"):
        getattr(registry_promote, f"add_{verb}")(verbs)
    args = parser.parse_args(words)
    return int(getattr(registry_promote, f"run_{args.verb}")(args))


def put_up(pair: AdapterPair, uri: str) -> int:
    number = register_pair(pair, NAME, uri=uri)
    set_candidate(NAME, number, uri=uri)
    return number


def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shoot", "render", "check_before"):
        monkeypatch.setattr(suite_clips, name, lambda *_: pytest.fail("something was made again"))


def test_first_better_worse_equal_and_back(
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert put_up(pairs["weak"], uri) == 1
    assert promote("--dry-run") == 0
    assert "orbit/1 would be promoted; nothing was stored or moved" in capsys.readouterr().out
    assert history(client, NAME) == []
    assert "gate" not in client.get_model_version(NAME, "1").tags
    assert promote() == 0
    assert "orbit/1 is the champion now (champion = 1, previous = None)" in capsys.readouterr().out
    verdict = stored(client, 1, tmp_path)
    assert verdict["first_version"] is True
    assert verdict["left_out"] == ["sharpness_ratio.min_effect"], "the first version has nothing to be better than"
    assert verdict["against"].keys() == {"base_sha256"}

    assert put_up(pairs["fair"], uri) == 2
    assert promote() == 0
    assert Pointers.now(client, NAME) == Pointers(2, 1)
    verdict = stored(client, 2, tmp_path)
    assert verdict["against"]["version"] == 1
    files = verdict["candidate"]["sha256"]
    assert files["orbit_h.safetensors"] == sha256(pairs["fair"].path.with_name("orbit_h.safetensors"))
    names = [check["name"] for check in verdict["checks"]]
    assert names == [
        "scenes",
        "motion",
        "sharpness_ratio.available",
        "sharpness_ratio.min_effect",
        "sharpness_ratio.min",
        "mlflow",
    ]

    for name, number in (("weak", 3), ("fair", 4)):
        assert put_up(pairs[name], uri) == number
        assert promote() == REFUSED
        assert Pointers.now(client, NAME) == Pointers(2, 1)
        gate = client.get_model_version(NAME, str(number)).tags["gate"]
        assert gate.startswith("refused: sharpness_ratio improves by"), gate
        assert "above 0" in gate
    assert "improves by 0 against" in gate

    assert put_up(pairs["sharp"], uri) == 5
    assert promote() == 0
    assert Pointers.now(client, NAME) == Pointers(5, 2)
    assert command("rollback", NAME, "--reason", "too sharp") == 0
    assert Pointers.now(client, NAME) == Pointers(2, 5)
    nothing_is_made(monkeypatch)
    monkeypatch.setattr(promotion_judge, "judged", lambda *_: pytest.fail("it was judged again"))
    assert promote() == 0, "the same question has the same answer"
    assert Pointers.now(client, NAME) == Pointers(5, 2)
    told = [(event.kind, event.version, event.champion, event.previous) for event in history(client, NAME)]
    assert told == [
        ("promotion", 1, 1, None),
        ("promotion", 2, 2, 1),
        ("refusal", 3, 2, 1),
        ("refusal", 4, 2, 1),
        ("promotion", 5, 5, 2),
        ("rollback", 5, 2, 5),
        ("promotion", 5, 5, 2),
    ]
    assert "too sharp" in history(client, NAME)[5].sentence()


def stored(client: MlflowClient, number: int, folder: Path) -> dict[str, object]:
    """The verdict that the version's tags name, after a look at everything that lies beside it."""
    version = client.get_model_version(NAME, str(number))
    place = version.tags["evidence.artifact"].removeprefix(f"runs:/{version.run_id}/")
    local = Path(client.download_artifacts(version.run_id, str(Path(place).parent), str(folder)))
    assert sha256(local / "evidence.json") == version.tags["evidence.sha256"]
    assert sha256(local / "verdict.json") == version.tags["verdict.sha256"]
    record = json.loads((local / "evidence.json").read_text())
    assert record["evidence"]["verdict.json"] == version.tags["verdict.sha256"]
    verdict = json.loads((local / "verdict.json").read_text())
    for role in ("base", "pair"):
        assert sha256(local / verdict["inputs"][role]["name"]) == verdict["inputs"][role]["sha256"]
    assert "<video" in (local / "compare.html").read_text()
    assert len(list((local / "filmstrips").glob("*.png"))) == 3
    assert str(folder) not in (local / "verdict.json").read_text()
    return dict(verdict)


@pytest.fixture
def champion(client: MlflowClient, uri: str, pairs: dict[str, AdapterPair]) -> int:
    """Version 1 is live."""
    number = register_pair(pairs["weak"], NAME, uri=uri)
    client.set_registered_model_alias(NAME, "champion", str(number))
    return number


@pytest.mark.parametrize("copied", [False, True], ids=["first seen", "copied here before"])
def test_a_candidate_that_was_tampered_with_is_refused_before_anything_is_made(
    copied: bool,
    champion: int,
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "fresh"))
    nothing_is_made(monkeypatch)
    put_up(pairs["fair"], uri)
    if copied:  # this machine's own copy stays right: everybody else would load the other bytes
        load_pair(f"{NAME}/2", uri=uri)
    run = client.get_model_version(NAME, "2").run_id
    file = next((tmp_path / "mlartifacts" / run).rglob("artifacts/orbit_l.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"orbit_l\.safetensors"):
        promote()
    assert Pointers.now(client, NAME) == Pointers(champion, None)
    assert history(client, NAME) == []


def test_a_candidate_for_another_base_is_refused_and_the_reason_kept(
    champion: int,
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing_is_made(monkeypatch)
    put_up(pairs["foreign"], uri)
    assert promote() == REFUSED
    gate = client.get_model_version(NAME, "2").tags["gate"]
    assert gate.startswith("refused: version 2 is for another base than the champion, version 1: task 't2v-A14B'")
    assert "boundary 0.875 (the champion's is 0.9)" in gate
    assert [event.kind for event in history(client, NAME)] == ["refusal"]
    assert Pointers.now(client, NAME) == Pointers(champion, None)


def test_a_frozen_candidate_is_refused_for_its_stillness(
    champion: int,
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    gate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its videos hold their first frame, which is sharper than anything that moves."""
    gate.write_text(gate.read_text() + "seeds = [7]\n")  # so that no other test finds them
    still = sha256(pairs["sharp"].path.with_name("orbit_h.safetensors"))
    original = suite_clips._film

    def frozen(job: suite_clips.Shooting, truth: Truth | None) -> None:
        original(job, truth)
        if job.pair is not None and sha256(job.pair / "orbit_h.safetensors") == still:
            frames, fps = read_video(job.video)
            write_mp4(job.video, np.repeat(frames[:1], len(frames), 0), fps, comment=read_comment(job.video))

    monkeypatch.setattr(suite_clips, "_film", frozen)
    put_up(pairs["sharp"], uri)
    assert promote() == REFUSED
    reasons = client.get_model_version(NAME, "2").tags["gate"]
    assert "motion ratio is 0.000, the floor is 0.500; 3 of 3 scenes stand still" in reasons
    assert "mlflow.validate_evaluation_results: Metric motion value threshold check failed" in reasons


def test_a_metric_that_cannot_be_measured_refuses_and_is_not_asked_in_vain(
    champion: int,
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    gate: Path,
) -> None:
    gate.write_text(SHARPER + "[metrics.subject_drift]\nmin_effect = 0\nmax = 9\n" + SUITE)
    put_up(pairs["sharp"], uri)
    assert promote() == REFUSED
    reasons = client.get_model_version(NAME, "2").tags["gate"]
    assert "subject_drift is unavailable in 3 of 3 scenes: the subject was found in 0 of 16" in reasons
    assert "metric subject_drift.max was missing from the evaluation result" in reasons
    gate.write_text(SHARPER + "[metrics.subject_drift]\nmin_effect = 0\n" + SUITE + "metrics = ['sharpness_ratio']\n")
    with pytest.raises(UserError, match=r"suite.metrics: subject_drift is missing, which the gate asks for"):
        promote()


def test_approval_by_somebody_else_lets_it_pass(
    champion: int,
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_up(pairs["sharp"], uri)
    with pytest.raises(UserError, match=r"no verdict to look at \(musubi-ext registry promote orbit first\)"):
        command("approve", NAME, "--as", "grace")
    assert promote("--require-approval") == WAITING
    said = capsys.readouterr().out
    assert "orbit/2: it waits for an approval (musubi-ext registry approve orbit/2, by somebody else" in said
    assert Pointers.now(client, NAME) == Pointers(champion, None)
    with pytest.raises(UserError, match="ada trained or registered it: somebody else has to approve it"):
        command("approve", NAME)
    assert command("approve", NAME, "--as", "grace") == 0
    assert "passed: sharpness_ratio improves by" in capsys.readouterr().out
    monkeypatch.setenv("LOGNAME", "grace")
    assert promote("--require-approval") == WAITING
    assert "grace approved it and promotes it: these have to be two people" in capsys.readouterr().out
    monkeypatch.setenv("LOGNAME", "ada")
    gate.write_text(gate.read_text().replace("min = 5", "min = 4"))
    assert promote("--require-approval") == WAITING
    assert "grace approved another verdict" in capsys.readouterr().out
    gate.write_text(gate.read_text().replace("min = 4", "min = 5"))
    assert promote("--require-approval") == 0
    assert Pointers.now(client, NAME) == Pointers(2, champion)
    kinds = [(event.kind, event.by) for event in history(client, NAME)]
    assert kinds == [
        ("wait", "ada"),
        ("approval", "grace"),
        ("wait", "grace"),
        ("wait", "ada"),
        ("promotion", "ada"),
    ]


def test_approving_what_is_not_what_was_judged(
    champion: int,
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_up(pairs["sharp"], uri)
    assert promote("--require-approval") == WAITING
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "lin")
    with pytest.raises(UserError, match="--as grace: the store knows you as lin"):
        command("approve", NAME, "--as", "grace")
    run = client.get_model_version(NAME, "2").run_id
    file = next((tmp_path / "mlartifacts" / run).rglob("verdict.json"))
    file.write_text(file.read_text().replace('"passed": true', '"passed": true ', 1))
    with pytest.raises(UserError, match="is not the evidence that was judged: expected sha256"):
        command("approve", f"{NAME}/2")


def test_who_comes_second_is_told(
    champion: int,
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While version 2 is judged, version 3 becomes the champion."""
    put_up(pairs["sharp"], uri)
    other = register_pair(pairs["fair"], NAME, uri=uri)
    original = promotion_judge.judged

    def meanwhile(*arguments: object) -> object:
        client.set_registered_model_alias(NAME, "champion", str(other))
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion_judge, "judged", meanwhile)
    monkeypatch.setattr("musubi_ext.promotion.run.recall", lambda *_: None)
    assert promote() == OVERTAKEN
    said = capsys.readouterr().out
    assert "another promotion came first: it was judged against version 1, the champion is version 3 now" in said
    assert Pointers.now(client, NAME) == Pointers(other, None)


def test_prompts_and_pictures_instead_of_rendered_scenes(
    client: MlflowClient,
    uri: str,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, level in (("first", 60), ("last", 200)):
        Image.new("RGB", (50, 40), (level, 90, 120)).save(tmp_path / f"{name}.png")
    toml = tmp_path / "real.toml"
    toml.write_text(
        "[gate]\nmin_scenes = 2\n[metrics.temporal_flicker]\nmax = 50\nmin_effect = 0\n"
        "[suite]\nsize = [32, 32]\nframes = 5\nsteps = 1\nmetrics = ['temporal_flicker', 'motion_magnitude']\n"
        "[[suite.prompts]]\nprompt = 'a car'\nfirst = 'first.png'\n"
        "[[suite.prompts]]\nprompt = 'a van'\nfirst = 'first.png'\nlast = 'last.png'\nseed = 3\n"
    )
    put_up(pairs["fair"], uri)
    assert promote(toml=toml) == 0
    run = client.get_model_version(NAME, "1").run_id
    results = json.loads(next((tmp_path / "mlartifacts" / run).rglob("candidate.json")).read_text())
    assert {clip: scene["seed"] for clip, scene in results["scenes"].items()} == {"scene_000": 42, "scene_001": 3}
    assert {result["masks"] for of in results["clips"].values() for result in of.values()} == {""}
    client.delete_registered_model_alias(NAME, "champion")
    Image.new("RGB", (50, 40), (1, 2, 3)).save(tmp_path / "last.png")
    filmed: list[str] = []
    original = suite_clips._film
    monkeypatch.setattr(suite_clips, "_film", lambda job, truth: filmed.append(job.scene.name) or original(job, truth))
    assert promote(toml=toml) == 0
    assert filmed == ["scene_001", "scene_001"], "candidate and base, of the scene whose picture changed"
    toml.write_text(toml.read_text().replace("'first.png'\n", "'toml'\n").replace("'toml'", "'real.toml'"))
    client.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(UserError, match=r"not a readable PNG, JPEG or WebP image"):
        promote(toml=toml)


def test_mistakes_are_said_before_anything_is_loaded(
    champion: int, uri: str, pairs: dict[str, AdapterPair], gate: Path, base: Path, promote: Callable[..., int]
) -> None:
    with pytest.raises(UserError, match=r"no alias 'candidate' \(aliases of orbit: champion = 1\)"):
        promote()
    put_up(pairs["fair"], uri)
    for words, message in (
        (["--gate", "nowhere.toml"], "nowhere.toml: expected the gate's TOML, found none"),
        (["--gate", str(gate), "--base", "nowhere"], "--base nowhere: expected a diffusers pipeline folder"),
        (["--gate", str(gate), "--workers", "0"], "--workers 0: expected at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            command("promote", NAME, *words)
    with pytest.raises(UserError, match="model name"):
        promote(name="../orbit")
    gate.write_text("[gate]\nmin_scenes = 9\n[suite]\nscenes = 3\n")
    with pytest.raises(UserError, match=r"the suite has 3 scenes, gate\.min_scenes asks for 9"):
        promote()


def test_what_was_touched_is_judged_again(
    champion: int,
    uri: str,
    kept: Path,
    pairs: dict[str, AdapterPair],
    promote: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_up(pairs["sharp"], uri)
    assert promote("--dry-run") == 0
    for file in (kept / "promotion" / "judged").rglob("candidate.json"):
        file.write_text(file.read_text().replace('"value": 1', '"value": 9', 1))
    judged: list[Gate] = []
    original = promotion_judge.judged
    monkeypatch.setattr(promotion_judge, "judged", lambda *args: judged.append(args[2]) or original(*args))
    assert promote("--dry-run") == 0
    assert len(judged) == 1
