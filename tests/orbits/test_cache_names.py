"""Clips of one name in several folders, and names that a cache cannot bear as they are: each has caches of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cache_data import data, listed, run, stamps, write_clip
from hypothesis import given
from hypothesis import strategies as st

from musubi_ext.cli import main
from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.files import read_metadata
from musubi_ext.orbits.cache.names import cache_names
from musubi_ext.orbits.checks.sources import list_clips
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.orbits.dataset import OrbitDataset
from musubi_ext.orbits.sources import jsonl_clips

CATS = {"a/cat.mp4": "a grey cat", "b/cat.mp4": "a red cat", "b/dog.mp4": "a dog"}


def test_a_name_that_one_clip_has_is_kept_and_shared_ones_are_told_apart() -> None:
    names = cache_names(["a/cat.mp4", "b/cat.webm", "c/dog.mp4"])
    assert (names["c/dog.mp4"].stem, names["c/dog.mp4"].mirrored) == ("dog", "dog-mirrored")
    assert names["a/cat.mp4"].stem == "cat-2f0de4f9"  # SHA-256 of "a/cat.mp4"
    assert names["b/cat.webm"].stem == "cat-05abe8da"
    assert names["a/cat.mp4"].mirrored == "cat-2f0de4f9-mirrored"


def test_a_name_of_its_own_is_not_another_clips() -> None:
    names = cache_names(["a/cat.mp4", "b/cat.mp4", "cat-2f0de4f9.mp4", "dog.mp4", "dog-mirrored.mp4"])
    assert names["cat-2f0de4f9.mp4"].stem == "cat-2f0de4f9"
    assert names["a/cat.mp4"].stem == "cat-2f0de4f91a1684d8"
    assert names["dog-mirrored.mp4"].stem == "dog-mirrored"
    assert names["dog.mp4"].mirrored.startswith("dog-mirrored-")


def test_names_that_a_disk_may_take_for_one_are_told_apart() -> None:
    names = cache_names(["a/Cat.mp4", "b/cat.mp4", "c/caf\u00e9.mp4", "d/cafe\u0301.mp4"])
    assert not {"Cat", "cat", "caf\u00e9", "cafe\u0301"} & {name.stem for name in names.values()}


@given(st.sets(st.from_regex(r"([ab]/)?[.]{0,2}([aA]|-mirrored|-5d7b4|\n|é){1,60}\.mp4", fullmatch=True)))
def test_no_two_clips_share_a_name_and_order_does_not_matter(places: set[str]) -> None:
    names = cache_names(sorted(places))
    stems = [stem.casefold() for one in names.values() for stem in (one.stem, one.mirrored)]
    assert len(stems) == len(set(stems)) == 2 * len(places)
    assert cache_names(sorted(places, reverse=True)) == names
    assert all(len(stem.encode()) <= 255 - 60 for stem in stems)
    assert not any(stem.startswith(".") for stem in stems)


def test_clips_of_one_name_are_cached_counted_trained_and_pruned(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = listed(tmp_path, CATS, more="[orbit]\nmirror = true")
    assert run(toml, tiny_pipeline).written == 3
    assert run(toml, tiny_pipeline).skipped == 3
    captions = {read_metadata(path)["caption1"] for path in (tmp_path / "cache").glob("*_te.safetensors")}
    assert captions == set(CATS.values())
    assert len(stamps(toml)) == 3 * 2 * 2
    assert main(["cache", "status", str(toml)]) == 0
    trained = OrbitDataset(load_dataset_config(toml))
    assert trained.num_train_items == 6
    pairs = {(one.source, read_metadata(one.text)["caption1"]) for one in trained.items}
    assert len(pairs) == 3
    assert main(["data", "check", str(toml), "--dry-run"]) == 0
    assert not [clip for clip in list_clips(load_dataset_config(toml)) if clip.problem or clip.caption_problem]

    listed(tmp_path, {"a/cat.mp4": "a grey cat"})
    with pytest.raises(UserError, match="found none"):
        OrbitDataset(load_dataset_config(toml))  # it alone is called cat, and not cached by that name
    capsys.readouterr()
    assert main(["cache", "prune", str(toml)]) == 0
    assert "12 files deleted" in capsys.readouterr().out
    assert stamps(toml) == {}


def test_a_namesake_that_comes_later_does_not_inherit_the_first_ones_cache(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = listed(tmp_path, {"a/cat.mp4": "a grey cat"})
    run(toml, tiny_pipeline)
    assert [name.split("_")[0] for name in stamps(toml)] == ["cat", "cat"]
    listed(tmp_path, CATS)
    with pytest.raises(UserError, match="found none"):
        OrbitDataset(load_dataset_config(toml))
    run(toml, tiny_pipeline, keep_stale=True)
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 3
    assert main(["cache", "prune", str(toml)]) == 0
    assert not any(name.startswith("cat_") for name in stamps(toml))


def test_names_depend_on_the_list_and_not_on_where_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        for name in ("a/cat.mp4", "b/cat.mp4"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(name)
        paths = ["a/cat.mp4", "b/cat.mp4"] if folder.name == "here" else [".//b/../b/cat.mp4", "a/cat.mp4"]
        lines = [json.dumps({"video_path": path, "caption": "c"}) for path in paths]
        (folder / "list.jsonl").write_text("\n".join(lines))
        monkeypatch.chdir(folder)
        names.append(sorted(clip.stem for clip in jsonl_clips(Path("list.jsonl"), Problems())))
    assert names[0] == names[1]


def test_a_file_that_stands_in_two_lines_is_named(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a" / "cat.mp4", 0)
    paths = str(clip), f"{tmp_path}/x/../a/cat.mp4"
    lines = [json.dumps({"video_path": path, "caption": path}) for path in paths]
    (tmp_path / "x").mkdir()
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    problems = Problems()
    jsonl_clips(tmp_path / "list.jsonl", problems)
    assert len(problems.found) == 1
    assert "list.jsonl line 2" in problems.found[0]
    assert "stands in line 1 too" in problems.found[0]


def test_one_caption_for_two_clips_is_refused_with_its_reason(tmp_path: Path) -> None:
    toml = data(tmp_path, count=1)
    write_clip(tmp_path / "clips" / "clip_0.mov", 7)
    with pytest.raises(UserError, match=r"both would have the caption of clip_0\.txt"):
        load_dataset_config(toml)


KEPT = ["new\nline", "-rf", "100%_00000-005_0032x0032_wan", "x_wan_te", "[a]*"]  # as musubi-tuner has them
AWKWARD = [*KEPT, "..", ".hidden", "a" * 240, "é" * 115, "caf\udce9"]


def test_awkward_names_work(tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 0).read_bytes()
    for number, name in enumerate(AWKWARD):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"{name}.mp4").write_bytes(clip)
    toml = listed(tmp_path, {f"{number}/{name}.mp4": f"clip {number}" for number, name in enumerate(AWKWARD)})
    assert run(toml, tiny_pipeline).bad == []
    config = load_dataset_config(toml)
    dataset = OrbitDataset(config)
    captions = {read_metadata(item.text)["caption1"] for item in dataset.items}
    assert captions == {f"clip {number}" for number in range(len(AWKWARD))}
    assert main(["cache", "status", str(toml)]) == 0
    assert {clip.stem for clip in config.datasets[0].clips()} & set(AWKWARD) == set(KEPT)
    for folder in tmp_path.glob("[0-9]*"):
        os.rename(folder, tmp_path / f"x{folder.name}")
    with pytest.raises(UserError) as raised:
        load_dataset_config(toml)
    assert len(raised.value.problems) == len(AWKWARD)
    assert not any("\n" in problem for problem in raised.value.problems)
    capsys.readouterr()


def test_a_name_that_no_disk_holds_is_refused_by_name(tmp_path: Path) -> None:
    toml = listed(tmp_path, {"cat.mp4": "a cat"})
    path = tmp_path / ("a" * 300 + ".mp4")
    (tmp_path / "list.jsonl").write_text(json.dumps({"video_path": str(path), "caption": "x"}))
    with pytest.raises(UserError, match="found none") as raised:
        load_dataset_config(toml)
    assert "a" * 300 in raised.value.problems[0]


def test_captions_are_lines_of_json_whatever_they_hold(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{name}.mp4", 0) for name in "ab"]
    captions = "a\u2028car\u0085", "\\ud800"
    lines = [f'{{"video_path": "{clip}", "caption": "{text}"}}' for clip, text in zip(clips, captions, strict=True)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    problems = Problems()
    (clip,) = jsonl_clips(tmp_path / "list.jsonl", problems)
    assert clip.caption == "a\u2028car"
    assert problems.found == [
        f"{tmp_path}/list.jsonl line 2: expected a caption of whole characters, found half of a surrogate pair"
        " (mend the caption)"
    ]
