"""The demo end to end on a random model: interrupted, gone on with, repeated for nothing, and careful with folders."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import toml
from rich.console import Console

from musubi_ext.cli import main
from musubi_ext.demo.command import remove_outputs
from musubi_ext.demo.options import Layout, Options
from musubi_ext.demo.serve import serve
from musubi_ext.demo.stages import Demo
from musubi_ext.demo.training import write_dataset_config
from musubi_ext.demo.workers import spread
from musubi_ext.pipeline.stages import Stage, finished, read_stamp, run_stages
from musubi_ext.registry.store import connect
from musubi_ext.video import read_comment, read_video

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--scenes", "2", "--clips", "4", "--steps", "3", "--sampler_steps", "2", "--rank", "4"]


def demo_words(out: Path, base: Path, *more: str) -> list[str]:
    return ["demo", "--out", str(out), "--base", str(base), *TINY, *more]


def times(folder: Path, *names: str) -> dict[str, int]:
    files = [path for name in names for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def demo_out(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo stopped while it measured, then started again to its end."""
    out = tmp_path_factory.mktemp("demo") / "out"

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("musubi_ext.demo.measures.measure_scene", stop)
        assert main(demo_words(out, tiny_pipeline)) == 130
    assert not (out / "summary.json").exists()
    hidden = [path.name for path in out.rglob(".*.*")]
    assert hidden == [".orbit.musubi-ext.jsonl"], "a temporary file was left"  # what is known of the caches stays
    before = times(out, "data", "cache", "pair", "videos")
    assert before
    assert main(demo_words(out, tiny_pipeline)) == 0
    assert times(out, "data", "cache", "pair", "videos") == before, "a finished stage was repeated"
    return out


def test_summary_has_the_promised_schema(demo_out: Path) -> None:
    summary = json.loads((demo_out / "summary.json").read_text(encoding="utf-8"))
    assert summary["scenes"] == 2
    assert {"render", "cache", "train", "evaluate", "total"} <= summary["seconds"].keys()
    assert all(value > 0 for value in summary["seconds"].values())
    for model in ("truth", "frozen", "base", "pair"):
        row = summary[model]
        assert {"subject_drift", "psnr", "direction_accuracy", "swept_angle_error_deg", "motion_ratio"} <= row.keys()
    assert summary["exact"]["subject_drift"].keys() == {"median", "low", "high"}
    assert math.isclose(summary["truth"]["motion_ratio"], 1.0)
    assert summary["frozen"]["motion_ratio"] == 0
    assert summary["base"]["seconds_per_video"] > 0
    assert summary["registered"] == {"name": "circle-rotate", "version": 1, "aliases": ["candidate"]}
    assert "at least 5 are needed" in summary["gate"]


def test_everything_lies_where_the_report_says(
    demo_out: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = times(demo_out, ".")
    assert main(demo_words(demo_out, tiny_pipeline)) == 0
    assert times(demo_out, ".") == before
    shown = capsys.readouterr().out
    assert shown.count("done before") == 8
    for part in (
        "held-out scenes",
        "frozen",
        "gate: refused",
        "mlflow ui",
        "models:/circle-rotate",
        "circle-rotate has no champion",
    ):
        assert part in shown
    assert len(list((demo_out / "filmstrips").glob("*.png"))) == 2
    assert len(list((demo_out / "videos").glob("*_pair.mp4"))) == 2
    names = {path.name for path in (demo_out / "pair").iterdir()}
    assert {"demo_h.safetensors", "demo_l.safetensors", "demo.pair.json"} <= names


def test_the_run_holds_the_evidence(demo_out: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=Layout(demo_out).tracking_uri)
    run = json.loads((demo_out / "summary.json").read_text(encoding="utf-8"))["run"]["id"]
    assert {file.path for file in client.list_artifacts(run)} >= {"pair", "filmstrips", "evaluation", "evidence"}
    assert len(client.list_artifacts(run, "filmstrips")) == 2
    assert client.get_run(run).info.status == "FINISHED"


def test_the_service_answers_from_the_champion(demo_out: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    pytest.importorskip("bentoml", reason="bentoml is not installed")
    layout = Layout(shutil.copytree(demo_out, tmp_path / "out"))
    connect(layout.tracking_uri).set_registered_model_alias("circle-rotate", "champion", "1")
    serve(Demo(Options(scenes=2, sampler_steps=2, base=str(tiny_pipeline)), layout, Console(quiet=True)))
    answer = json.loads(layout.served.read_text(encoding="utf-8"))
    assert answer["version"] == 1
    assert answer["model"].endswith("+circle-rotate/1")
    assert read_comment(layout.served_video)["version"] == "models:/circle-rotate/1"
    assert len(read_video(layout.served_video)[0]) == 17


def test_changed_option_repeats_only_what_depends_on_it(
    demo_out: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def to_do(*words: str) -> set[str]:
        assert main(demo_words(demo_out, tiny_pipeline, *words, "--dry-run")) == 0
        return set(re.findall(r"^(\w+) +to do", capsys.readouterr().out, re.MULTILINE))

    last = {"evaluate", "register", "serve"}
    assert to_do() == set()
    assert to_do("--sampler_steps", "3") == {"generate", *last}
    assert to_do("--scenes", "3") == {"scenes", "generate", *last}
    assert to_do("--seed", "7") == to_do("--rank", "8") == {"train", "generate", *last}
    assert to_do("--clips", "6") == {"render", "cache", "train", "generate", *last}
    assert len(to_do("--fresh")) == 8


def test_dry_run_writes_nothing(tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(demo_words(tmp_path / "out", tiny_pipeline, "--dry-run", "--fresh")) == 0
    assert capsys.readouterr().out.count("to do") == 8
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--fresh", "--dry-run"])
def test_folder_that_no_demo_made_is_left_alone(
    flag: str, tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    assert main(demo_words(tmp_path, tiny_pipeline, flag)) == 2
    assert "no demo made it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_every_wrong_option_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    words = ["demo", "--out", str(tmp_path / "file"), "--scenes", "0", "--steps", "-1", "--base", str(tmp_path)]
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == ["--scenes", "--steps", "--base", "--out"]


def test_fresh_removes_only_what_a_demo_made(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "out"
    for path in (outside / "kept.txt", root / "data" / "clip.mp4", root / "notes.txt", root / "demo.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "videos").symlink_to(outside, target_is_directory=True)
    remove_outputs(Layout(root))
    assert [path.name for path in root.iterdir()] == ["notes.txt"]
    assert (outside / "kept.txt").exists()


def test_data_set_is_the_commented_one_with_our_folders(tmp_path: Path) -> None:
    ours = toml.load(write_dataset_config(Layout(tmp_path / 'a "quoted" folder')))
    shown = toml.load(ROOT / "dataset_toml" / "pocket.toml")
    assert ours["datasets"][0]["video_directory"] == str(tmp_path / 'a "quoted" folder' / "data" / "orbit")
    for document in (ours, shown):
        del document["datasets"][0]["video_directory"], document["datasets"][0]["cache_directory"]
    assert ours == shown


def test_interrupted_stage_keeps_its_work_and_other_inputs_begin_anew(tmp_path: Path) -> None:
    runs: list[str] = []

    def first(demo: Demo) -> None:
        runs.append("first")
        (demo.layout.root / "a").mkdir(exist_ok=True)

    def second(demo: Demo) -> None:
        runs.append("second")
        (demo.layout.root / "b").mkdir(exist_ok=True)
        (demo.layout.root / "b" / str(len(runs))).touch()
        time.sleep(0.01)
        if len(runs) == 2:
            raise KeyboardInterrupt

    def stage(name: str, after: tuple[str, ...], option: str, output: str, run: object) -> Stage:
        return Stage(name, after, str, lambda o: {option: getattr(o, option)}, lambda at: (at.root / output,), run)

    chain = (stage("first", (), "clips", "a", first), stage("second", ("first",), "seed", "b", second))
    demo = Demo(Options(), Layout(tmp_path), Console(quiet=True))
    with pytest.raises(KeyboardInterrupt):
        run_stages(chain, demo)
    assert finished(chain, demo).keys() == {"first"}
    spent = read_stamp(demo.layout, "second")["spent"]
    run_stages(chain, demo)
    assert read_stamp(demo.layout, "second")["seconds"] > spent > 0
    assert runs == ["first", "second", "second"]
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"2", "3"}
    run_stages(chain, Demo(Options(seed=7), demo.layout, demo.console))
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"4"}
    (tmp_path / "a").rmdir()
    assert finished(chain, demo) == {}


def test_work_is_spread_in_order_and_errors_come_through() -> None:
    console = Console(quiet=True)
    threads = os.environ.get("OMP_NUM_THREADS")
    assert spread(math.sqrt, [4.0, 9.0], "here", console) == [2, 3]
    assert spread(math.sqrt, [float(n * n) for n in range(6)], "apart", console) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        spread(math.sqrt, [1.0, -1.0, 4.0, 9.0], "apart", console)
    assert os.environ.get("OMP_NUM_THREADS") == threads
