"""Every clip ends fit, unfit or unreadable; nothing is measured twice; a worker that dies takes no other clip along."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from checked_clips import EXPECTED, NO_ORBIT, data_set, faulty, write_clip
from hostile_corpus import REFUSED, build

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.checks.clip import Measured, measure_clip
from musubi_ext.orbits.checks.ray import ray_engine
from musubi_ext.orbits.checks.run import DIED, Job, check_dataset, local_engine
from musubi_ext.orbits.checks.store import CheckStore
from musubi_ext.orbits.checks.verdicts import FIT, Verdict
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
from musubi_ext.orbits.report.write import write_report
from musubi_ext.orbits.sources import VIDEO_SUFFIXES


class Counting:
    """Measures in this process and remembers what it was asked for."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[str, Measured]]:
        for job in jobs:
            self.paths.append(job.path.name)
            yield job.key, measure_clip(job.path, job.dataset)


def check(config: DatasetConfig, folder: Path, engine: Counting) -> tuple[Verdict, ...]:
    engine.paths.clear()
    with CheckStore(folder) as store:
        return check_dataset(config, NO_ORBIT, store, engine)


def test_every_clip_ends_with_its_state_and_reason_and_the_pool_says_the_same(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    config = faulty(tmp_path / "data")
    with CheckStore(tmp_path / "pool") as store:
        pooled = check_dataset(config, NO_ORBIT, store, local_engine(2), lambda *done: told.append(done))
    found = {verdict.listed.path.name: verdict for verdict in pooled}
    assert found.keys() == EXPECTED.keys()
    for name, (state, words) in EXPECTED.items():
        reasons = " ".join(reason.text for reason in found[name].reasons)
        assert (found[name].state, words in reasons) == (state, True), f"{name}: {reasons}"
        assert bool(reasons) == (state != FIT)
        assert str(tmp_path) not in reasons or "same" in reasons or "looks like" in reasons
    assert told[-1] == (len(EXPECTED), len(EXPECTED))
    fit = found["fit.mp4"]
    assert measure_clip(fit.listed.path, config.datasets[0]).without_strip() == fit.measured


def test_a_second_run_measures_only_what_is_new_or_changed(tmp_path: Path) -> None:
    clips, report, engine = tmp_path / "clips", tmp_path / "report", Counting()
    clips.mkdir()
    for seed in range(3):
        write_clip(clips / f"{seed}.mp4", seed)
    config = data_set(tmp_path, "clips")
    first = check(config, report, engine)
    assert sorted(engine.paths) == ["0.mp4", "1.mp4", "2.mp4"]
    assert check(config, report, engine) == first
    assert engine.paths == []
    write_clip(clips / "1.mp4", 9)
    (clips / "2.mp4").rename(clips / "renamed.mp4")
    (clips / "2.txt").write_text("", encoding="utf-8")
    after = check(config, report, engine)
    assert engine.paths == ["1.mp4"]
    assert [verdict.state for verdict in after] == ["fit", "fit", "unfit"]  # renamed.mp4 has no caption now


def test_a_killed_run_leaves_a_torn_line_that_costs_one_clip(tmp_path: Path) -> None:
    clips, report, engine = tmp_path / "clips", tmp_path / "report", Counting()
    clips.mkdir()
    for seed in range(3):
        write_clip(clips / f"{seed}.mp4", seed)
    config = data_set(tmp_path, "clips")
    whole = check(config, report, engine)
    store = report / "measured.jsonl"
    store.write_bytes(store.read_bytes()[:-40])
    assert check(config, report, engine) == whole
    assert len(engine.paths) == 1
    assert check(config, report, engine) == whole
    assert engine.paths == []


class Deadly(VideoDataset):
    """Settings that end the process they are unpickled in."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_a_worker_that_dies_takes_no_other_clip_along(tmp_path: Path) -> None:
    plain = VideoDataset(tmp_path, tmp_path, resolution=(64, 64), target_frames=(17,))
    jobs = [Job(str(seed), write_clip(tmp_path / f"{seed}.mp4", seed), plain) for seed in range(4)]
    jobs.insert(1, Job("deadly", tmp_path / "0.mp4", Deadly(tmp_path, tmp_path)))
    found = dict(local_engine(2)(jobs))
    assert found.keys() == {"0", "1", "2", "3", "deadly"}
    assert [key for key, measured in found.items() if measured.unreadable] == ["deadly"]
    assert found["deadly"].unreadable == DIED


def test_a_missing_folder_and_an_empty_one_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = data_set(tmp_path, "empty", "missing")
    with pytest.raises(UserError) as raised:
        check(config, tmp_path / "report", Counting())
    assert len(raised.value.problems) == 2


def test_clips_of_one_stem_share_a_caption_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "cat.mov", 1)
    write_clip(tmp_path / "clips" / "cat.mp4", 2)
    states = check(data_set(tmp_path, "clips"), tmp_path / "report", Counting())
    assert [verdict.state for verdict in states] == ["fit", "unfit"]
    assert "shares its caption with cat.mov" in states[1].reasons[0].text


def test_a_list_names_each_line_that_is_wrong(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "cat.mp4", 1)
    lines = [f'{{"video_path": "{clip}", "caption": "a cat"}}', '{"video_path": "none.mp4", "caption": "x"}', "{"]
    (tmp_path / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = VideoDataset(
        tmp_path / "cache", video_jsonl_file=tmp_path / "list.jsonl", resolution=(64, 64), target_frames=(17,)
    )
    found = check(DatasetConfig(tmp_path / "set.toml", (dataset,)), tmp_path / "report", Counting())
    assert [verdict.state for verdict in found] == ["fit", "unreadable", "unreadable"]
    assert "line 2" in found[1].reasons[0].text


def test_names_are_shown_on_one_printable_line() -> None:
    assert shown(Path("a\nb\u202ec\x1b[31m/\udcff🐈 é")) == "a\\nb\\u202ec\\x1b[31m/\\udcff🐈 é"


def test_ray_is_named_with_its_remedy_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed"):
        ray_engine(None)


def test_hostile_files_end_in_the_report_with_their_reasons(tmp_path: Path) -> None:
    """One in ten of the corpus, through everything: list, decode, measure, judge, page."""
    clips, corpus = tmp_path / "clips", tmp_path / "corpus"
    clips.mkdir()
    corpus.mkdir()
    chosen = [hostile for hostile in build(corpus) if hostile.path.suffix in VIDEO_SUFFIXES][::10]
    for number, hostile in enumerate(chosen):
        os.link(hostile.path, clips / f"{number:03d}{hostile.path.name}", follow_symlinks=False)
    config = data_set(tmp_path, "clips")
    limits = replace(NO_ORBIT, require_caption=False, min_frames=None, max_frozen=None, max_cut=None)
    with CheckStore(tmp_path / "report") as store:
        verdicts = check_dataset(config, limits, store, local_engine(2))
        report = write_report(tmp_path / "report", config, limits, verdicts, store)
    listed = json.loads(report.json.read_text(encoding="utf-8"))["clips"]
    assert len(listed) == len(verdicts) == len(chosen) > 50
    states = {verdict.listed.path.name: verdict for verdict in verdicts}
    for number, hostile in enumerate(chosen):
        verdict = states[f"{number:03d}{hostile.path.name}"]
        assert bool(verdict.reasons) == (verdict.state != FIT)
        if hostile.verdict == REFUSED:  # or decoded within the larger limits here, and then not fit
            assert verdict.reasons, hostile.path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, in its own code
def test_ray_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install musubi-ext[ray]")
    config = faulty(tmp_path / "data")
    found = []
    for engine in (local_engine(2), ray_engine(None)):
        with CheckStore(tmp_path / f"report{len(found)}") as store:
            found.append(check_dataset(config, NO_ORBIT, store, engine))
    assert found[0] == found[1]
