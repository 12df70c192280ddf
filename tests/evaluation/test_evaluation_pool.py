"""Processes give what one process gives; a bad clip or a dead process costs one clip; a stopped run goes on."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from musubi_ext.evaluation.journal import Journal
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.pool import DIED, Job, Settings, local_engine, measure_all, measure_job
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.ray import ray_engine
from musubi_ext.evaluation.suite import Measured, evaluate
from musubi_ext.evaluation.truth import Truth
from musubi_ext.orbits.render import write_dataset
from musubi_ext.video import read_video, write_mp4

NAMES = ("global_flow", "motion_magnitude", "psnr_first_last", "subject_drift", "psnr")
SETTINGS = Settings(NAMES)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four rendered clips with their truth beside them."""
    return write_dataset(tmp_path_factory.mktemp("clips"), 4)


def jobs_of(clips: Sequence[Path], settings: Settings = SETTINGS) -> list[Job]:
    truths = [truth if (truth := clip.with_suffix(".npz")).is_file() else None for clip in clips]
    return [Job(clip.name, clip, settings, truth, None, "a cat") for clip, truth in zip(clips, truths, strict=True)]


class Counting:
    """Measures in this process and remembers what it was asked for; stops after `most`."""

    def __init__(self, most: int = 99) -> None:
        self.names: list[str] = []
        self.most = most

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Measured]]:
        for job in jobs:
            if len(self.names) == self.most:
                raise KeyboardInterrupt
            self.names.append(job.name)
            yield job, measure_job(job)


def run(jobs: Sequence[Job], journal: Path, engine: Counting) -> dict[str, Measured]:
    engine.names.clear()
    with Journal(journal) as kept:
        return measure_all(jobs, engine, kept)


class Deadly(str):
    """A name that ends the process it is unpickled in."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_pool_equals_serial_and_a_dead_process_costs_one_clip(clips: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(clips[0].read_bytes()[: clips[0].stat().st_size // 2])
    jobs = [*jobs_of([*clips, torn]), Job("deadly", clips[0], SETTINGS, caption=Deadly("x"))]
    told: list[tuple[int, int]] = []
    with Journal(tmp_path / "journal") as journal:
        pooled = measure_all(jobs, local_engine(2), journal, lambda *done: told.append(done))
        assert list(pooled) == [job.name for job in jobs]
        assert told[0] == (0, 6)
        assert told[-1] == (6, 6)
    for job in jobs[:4]:
        assert pooled[job.name].results == measure_job(job).results
        assert pooled[job.name].problems == ()
        assert all(result.value is not None for result in pooled[job.name].results.values())
    assert {str(result.unavailable) for result in pooled["deadly"].results.values()} == {DIED}
    assert all("torn.mp4" in str(result.unavailable) for result in pooled["torn.mp4"].results.values())
    assert [len(pooled[name].problems) for name in ("torn.mp4", "deadly")] == [1, 1]


def test_results_are_those_of_evaluate(clips: list[Path]) -> None:
    measured = measure_job(jobs_of(clips[:1])[0]).results
    truth = Truth.load(clips[0].with_suffix(".npz"))
    assert measured == evaluate(clips[0], truth=truth, metrics=NAMES, threads=2)
    assert measured == evaluate(read_video(clips[0])[0], truth=truth, metrics=NAMES)


def test_a_stopped_run_goes_on_where_it_stopped(clips: list[Path], tmp_path: Path) -> None:
    jobs, journal = jobs_of(clips), tmp_path / "journal"
    whole = run(jobs, tmp_path / "other", Counting())
    with pytest.raises(KeyboardInterrupt):
        run(jobs, journal, Counting(2))
    engine = Counting()
    assert run(jobs, journal, engine) == whole
    assert engine.names == [clip.name for clip in clips[2:]]
    assert run(jobs, journal, engine) == whole
    assert engine.names == []
    journal.write_bytes(journal.read_bytes()[:-30])  # killed while it wrote
    assert run(jobs, journal, engine) == whole
    assert engine.names == [clips[3].name]


def test_what_changes_the_results_is_measured_again(clips: list[Path], tmp_path: Path) -> None:
    copies = [tmp_path / clip.name for clip in clips[:2]]
    for clip, copy in zip(clips, copies, strict=False):
        copy.write_bytes(clip.read_bytes())
        copy.with_suffix(".npz").write_bytes(clip.with_suffix(".npz").read_bytes())
    engine, journal = Counting(), tmp_path / "journal"
    run(jobs_of(copies), journal, engine)
    copies[0].with_suffix(".npz").write_bytes(clips[2].with_suffix(".npz").read_bytes())
    run(jobs_of(copies), journal, engine)
    assert engine.names == [copies[0].name]
    write_mp4(copies[1], np.zeros((17, 64, 64, 3), np.uint8), 16)
    run(jobs_of(copies), journal, engine)
    assert engine.names == [copies[1].name]
    run(jobs_of(copies, Settings(NAMES, profile=Profile.FAST)), journal, engine)
    assert len(engine.names) == 2


def test_a_bad_clip_is_tried_again(clips: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"not a video")
    engine = Counting()
    for _ in range(2):
        assert run(jobs_of([torn]), tmp_path / "journal", engine)["torn.mp4"].problems
        assert engine.names == ["torn.mp4"]


def test_a_metric_that_fails_costs_itself_alone(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(clip: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setitem(METRICS, "psnr", dataclasses.replace(METRICS["psnr"], compute=broken))
    measured = measure_job(jobs_of(clips[:1])[0])
    assert measured.results["psnr"].unavailable == "psnr failed: ZeroDivisionError: by nothing"
    assert "psnr failed" in measured.problems[0]
    assert clips[0].name in measured.problems[0]
    assert measured.results["motion_magnitude"].value is not None
    with pytest.raises(ZeroDivisionError):
        evaluate(clips[0], metrics=["psnr"])


def test_the_journal_is_strict_json(clips: list[Path], tmp_path: Path) -> None:
    run(jobs_of(clips[:1]), tmp_path / "journal", Counting())
    key, results, scene = json.loads((tmp_path / "journal").read_text())
    assert (len(key), scene) == (64, None)
    assert set(results) == set(NAMES)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same(clips: list[Path], tmp_path: Path) -> None:
    jobs = jobs_of(clips[:2])
    with Journal(tmp_path / "journal") as journal:
        found = measure_all(jobs, ray_engine(), journal)
    assert found == {job.name: measure_job(job) for job in jobs}
