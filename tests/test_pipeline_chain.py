"""The pipeline end to end on a random model: broken off, gone on with, repeated for nothing, and each run in MLflow."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from musubi_ext.locks import locked
from musubi_ext.orbits.render import write_dataset
from musubi_ext.pipeline.command import main
from musubi_ext.pipeline.runs import EARLIER_TAG, ENDED_TAG, STATE_TAG
from musubi_ext.promotion import judge as promotion_judge
from musubi_ext.registry.runs import EXPERT_TAG, PARENT_TAG
from musubi_ext.registry.store import connect
from musubi_ext.registry.versions import aliases, checksums, find_version

DATA = """\
[general]
resolution = [32, 32]
caption_extension = ".txt"
batch_size = 2
[[datasets]]
video_directory = "{0}/clips"
cache_directory = "{0}/cache"
target_frames = [5]
frame_extraction = "head"
[orbit]
condition = "first"
"""
GATE = "[gate]\nmin_scenes = 2\n[suite]\nscenes = 2\nsize = [32, 32]\nframes = 5\nsteps = 1\n"
STEPS = ["prepare", "train", "evaluate", "promote"]


@dataclass(frozen=True)
class Tried:
    """A folder with a data set, a gate and a store; a pipeline that was stopped at `evaluate`, then run to its end."""

    root: Path
    words: list[str]
    stopped: str  # id of the first run

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def client(self) -> MlflowClient:
        return connect(f"sqlite:///{self.root}/mlflow.db")

    def run(self, *more: str, step: str = "pipeline") -> int:
        return main([step, *self.words, *more])

    def runs(self, parent: str | None = None) -> list[Any]:
        """Children of a run, or the pipelines, in the order in which they began."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        found = self.client.search_runs(experiments, max_results=1000, order_by=["attributes.start_time ASC"])
        return [run for run in found if run.data.tags.get(PARENT_TAG) == parent]

    def steps(self, parent: str) -> dict[str, Any]:
        return {run.info.run_name: run for run in self.runs(parent)}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path_factory.getbasetemp() / "pipeline_cache"))


@pytest.fixture(scope="module")
def tried(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    root = tmp_path_factory.mktemp("pipeline")
    write_dataset(root / "clips", 2, size=(32, 32), frames=5)
    (root / "data.toml").write_text(DATA.format(root.as_posix()))
    (root / "gate.toml").write_text(GATE)
    words = ["--dataset_config", str(root / "data.toml"), "--gate", str(root / "gate.toml"), "--workers", "1"]
    words += ["--output_dir", str(root / "out"), "--base", str(tiny_pipeline), "--steps", "1", "--network_dim", "2"]
    words += ["--mlflow_tracking_uri", f"sqlite:///{root}/mlflow.db", "--name", "orbit"]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setenv("MUSUBI_EXT_CACHE", str(tmp_path_factory.getbasetemp() / "pipeline_cache"))
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(promotion_judge, "judged", stop)
            assert main(["pipeline", *words]) == 130
        found = Tried(root, words, "")
        (stopped,) = found.runs()
        assert main(["pipeline", *words]) == 0
    return Tried(root, words, stopped.info.run_id)


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_what_was_stopped_is_killed_and_what_was_done_is_not(tried: Tried) -> None:
    run = tried.client.get_run(tried.stopped)
    assert (run.info.status, run.data.tags[ENDED_TAG]) == ("KILLED", "interrupted")
    found = {name: step.info.status for name, step in tried.steps(tried.stopped).items()}
    assert found == {"prepare": "FINISHED", "train": "FINISHED", "evaluate": "KILLED"}


def test_the_second_run_goes_on(tried: Tried) -> None:
    first, second = tried.runs()[:2]
    steps, before = tried.steps(second.info.run_id), tried.steps(first.info.run_id)
    assert list(steps) == STEPS
    assert [steps[name].data.tags[STATE_TAG] for name in STEPS] == ["skipped", "skipped", "ran", "ran"]
    assert {run.info.status for run in (second, *steps.values())} == {"FINISHED"}
    assert steps["train"].data.tags[EARLIER_TAG] == before["train"].info.run_id
    kept = {file.path for file in tried.client.list_artifacts(steps["evaluate"].info.run_id, "evaluation")}
    assert {"evaluation/verdict.json", "evaluation/compare.html", "evaluation/filmstrips"} <= kept
    assert "base.motion_ratio" in steps["evaluate"].data.metrics


def test_the_training_lies_below_its_step_and_its_experts_below_it(tried: Tried) -> None:
    step = tried.steps(tried.stopped)["train"]
    (pair,) = tried.runs(step.info.run_id)
    assert pair.info.run_id == step.data.tags["pair.run"]
    assert {run.data.tags[EXPERT_TAG] for run in tried.runs(pair.info.run_id)} == {"high", "low"}
    assert {run.info.status for run in (pair, *tried.runs(pair.info.run_id))} == {"FINISHED"}


def test_the_registry_holds_the_pair_and_why(tried: Tried) -> None:
    from musubi_ext.registry.names import ModelReference
    from musubi_ext.storage import sha256

    version = find_version(tried.client, ModelReference("orbit", alias="candidate"))
    assert checksums(version) == {path.name: sha256(path) for path in (tried.out / "pair").iterdir()}
    assert "evaluation.base.motion_ratio" in version.tags
    outcome = tried.runs()[1].data.tags["promotion"]  # a random model moves as chance will have it
    assert (outcome == "promoted") == (aliases(tried.client, "orbit").get("champion") == 1)
    assert (outcome == "refused") == version.tags["gate"].startswith("refused")


def test_nothing_is_repeated_and_a_launched_run_says_so(
    tried: Tried, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count, before = len(tried.runs()), times(tried.out)
    assert tried.run() == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert (len(tried.runs()), times(tried.out)) == (count, before)
    opened = tried.client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tried.root}/mlflow.db")
    assert tried.run() == 0
    steps = tried.steps(opened)
    assert list(steps) == STEPS
    assert {(run.info.status, run.data.tags[STATE_TAG]) for run in steps.values()} == {("FINISHED", "skipped")}
    assert tried.client.get_run(opened).info.status == "FINISHED"


@pytest.fixture
def to_do(tried: Tried, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Steps that are certain to run, of a plan."""

    def plan(*words: str) -> list[str]:
        capsys.readouterr()
        assert tried.run(*words, "--dry_run") == 0
        return re.findall(r"^(\w+) +to do", capsys.readouterr().out, re.MULTILINE)

    return plan


def test_a_changed_input_repeats_only_what_depends_on_it(
    tried: Tried, to_do: Callable[..., list[str]], tmp_path: Path
) -> None:
    data, gate = tmp_path / "data.toml", tmp_path / "gate.toml"
    text = (tried.root / "data.toml").read_text()
    assert to_do() == []
    assert to_do("--seed", "7") == to_do("--network_dim", "4") == to_do("--train_flags=--no_bands") == ["train"]
    assert to_do("--name", "other") == to_do("--require_approval", "yes") == ["promote"]
    data.write_text("# the same\n" + text)
    assert to_do("--dataset_config", str(data)) == []
    data.write_text(text.replace("batch_size = 2", "batch_size = 1"))
    assert to_do("--dataset_config", str(data)) == ["prepare", "train"]
    gate.write_text(GATE + "shapes = 'unseen'\n")
    assert to_do("--gate", str(gate)) == ["evaluate", "promote"]


def test_contents_count_not_names_and_times(tried: Tried, to_do: Callable[..., list[str]], tmp_path: Path) -> None:
    data = tmp_path / "data.toml"
    data.write_text(DATA.format(tmp_path.as_posix()))
    for folder in ("clips", "cache"):
        shutil.copytree(tried.root / folder, tmp_path / folder)
    assert to_do("--dataset_config", str(data)) == []
    caption = next((tmp_path / "clips").glob("*.txt"))
    caption.write_text("a red car, the camera circles left to right\n")
    assert to_do("--dataset_config", str(data)) == ["prepare", "train"]


def test_what_was_made_and_changed_since_is_made_again(tried: Tried, to_do: Callable[..., list[str]]) -> None:
    cached = next((tried.root / "cache").glob("*_wan.safetensors"))
    adapter = tried.out / "pair" / "pair_h.safetensors"
    aside = tried.root / "aside"
    for path, step in ((cached, "prepare"), (adapter, "train"), (tried.out / "evaluation", "evaluate")):
        path.rename(aside)
        assert step in to_do()
        aside.rename(path)
    whole = adapter.read_bytes()
    adapter.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert to_do() == ["train", "evaluate", "promote"]
    assert tried.run(step="evaluate") == 2  # what was tampered with is not judged
    adapter.write_bytes(whole)
    (tried.out / "stamps" / "evaluate.json").unlink()
    assert tried.run(step="evaluate") == 0  # every video is found


def test_a_step_that_fails_is_failed_and_says_what_it_lacks(
    tried: Tried, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tried.run("--output_dir", str(tmp_path / "new"), step="evaluate") == 2
    assert "run the step train first" in capsys.readouterr().err
    run = tried.runs()[-1]
    assert (run.info.status, tried.steps(run.info.run_id)["evaluate"].info.status) == ("FAILED", "FAILED")


def test_a_gate_that_cannot_be_used_is_refused_before_anything_is_made(
    tried: Tried, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text("[gate]\nmin_sceens = 2\n")
    assert tried.run("--gate", str(gate), "--seed", "9") == 2
    assert "min_sceens" in capsys.readouterr().err
    assert (tried.out / "pair" / "pair.pair.json").is_file()


def test_one_pipeline_at_a_time_in_a_folder(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tried.out / "stamps", "taken"):
        assert tried.run() == 2
    assert "another run is at work in this folder" in capsys.readouterr().err


def test_folder_that_no_pipeline_made_is_left_alone(
    tried: Tried, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    assert tried.run("--output_dir", str(tmp_path)) == 2
    assert "no pipeline made it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_every_wrong_option_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--clips", "1", "--steps", "0", "--dataset_config", "no.toml", "--base", str(tmp_path), "--gate", "no"]
    words += ["--name", "../up", "--task", "t9", "--train_flags='", "--output_dir", str(tmp_path / "out")]
    assert main(["pipeline", *words]) == 2
    named = [line.removeprefix("error: ").split()[0].rstrip(":") for line in capsys.readouterr().err.splitlines()]
    assert named[:5] == ["--clips", "--steps", "--dataset_config", "--base", "--gate"]
    assert len(named) == 8
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_the_default_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gate = Path(__file__).parents[1] / "mlflow_projects" / "gate.toml"
    assert main(["pipeline", "--gate", str(gate), "--dry_run"]) == 0
    assert re.findall(r"^(\w+) +to do", capsys.readouterr().out, re.MULTILINE) == ["render", *STEPS]
    assert not list(tmp_path.iterdir())
