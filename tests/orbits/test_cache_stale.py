"""Stale entries are never trained on: what has changed is named, and what upstream made still trains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cache_data import data, run, stamps, write_clip
from safetensors.torch import load_file, save_file

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.orbits.cache import entries, files
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.orbits.dataset import OrbitDataset


@pytest.fixture
def toml(tmp_path: Path, tiny_pipeline: Path) -> Path:
    """Three cached clips."""
    toml = data(tmp_path, count=3, more="[orbit]\nmirror = false")
    run(toml, tiny_pipeline)
    return toml


def refused(toml: Path) -> tuple[str, ...]:
    with pytest.raises(UserError) as raised:
        OrbitDataset(load_dataset_config(toml))
    return raised.value.problems


def edit(toml: Path, old: str, new: str) -> None:
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new))


def make_foreign(folder: Path) -> None:
    """What musubi-tuner records of latents, no more."""
    for path in folder.glob("*_wan.safetensors"):
        metadata = files.read_metadata(path)
        upstreams = {key: metadata[key] for key in ("architecture", "width", "height", "format_version", "frame_count")}
        save_file(load_file(path), path, metadata=upstreams)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda toml: edit(toml, "[32, 32]", "[48, 48]"), "resolution"),
        (lambda toml: edit(toml, "[5]", "[1, 5]"), "target_frames"),
        (lambda toml: edit(toml, "[5]", '[5]\nsource_fps = 16.0\nframe_extraction = "chunk"'),
         "frame_extraction, source_fps"),
        (lambda toml: edit(toml, "mirror = false", 'condition = "first_last"'), "condition"),
        (lambda toml: edit(toml, "[32, 32]", "[32, 32]\nenable_bucket = true"), "enable_bucket"),
    ],
)  # fmt: skip
def test_changed_settings_are_named_once_for_all_clips(
    toml: Path, change: Callable[[Path], None], reason: str, tiny_pipeline: Path
) -> None:
    change(toml)
    (problem,) = refused(toml)
    assert problem.startswith(f"{toml.parent / 'cache'}: 3 clips are cached for other settings: {reason}: ")
    assert f"cache again: musubi-ext data cache --dataset_config {toml}" in problem
    assert run(toml, tiny_pipeline).written == 3
    assert OrbitDataset(load_dataset_config(toml)).num_train_items >= 3


def test_a_clip_replaced_by_another_of_its_name_is_named(toml: Path) -> None:
    clip = toml.parent / "clips" / "clip_1.mp4"
    write_clip(clip, 99)
    (problem,) = refused(toml)
    assert problem.partition(" (")[0].endswith(f"1 clip is cached for other settings: the clip itself: {clip}")


def test_a_changed_caption_is_named(toml: Path) -> None:
    (toml.parent / "clips" / "clip_1.txt").write_text("another")
    (problem,) = refused(toml)
    assert "1 clip is cached for other settings: the caption: " in problem


def test_old_files_beside_new_ones_are_passed_over(toml: Path, tiny_pipeline: Path) -> None:
    edit(toml, "[32, 32]", "[48, 48]")
    other = Encoders.load(tiny_pipeline)
    next(other.vae.encoder.parameters()).data += 0.01
    cache_dataset(load_dataset_config(toml), other, progress=False, keep_stale=True)
    dataset = OrbitDataset(load_dataset_config(toml))
    assert {item.size for item in dataset.items} == {(48, 48)}
    assert dataset.num_train_items == 3
    assert len(stamps(toml)) == 9


def test_a_mirror_image_that_is_not_cached_is_named(toml: Path, tiny_pipeline: Path) -> None:
    edit(toml, "mirror = false", "mirror = true")
    (problem,) = refused(toml)
    assert "3 clips are cached, but not mirrored: " in problem
    run(toml, tiny_pipeline)
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 6
    write_clip(toml.parent / "clips" / "clip_0.mp4", 99)
    (problem,) = refused(toml)
    assert "1 clip is cached for other settings: the clip itself: " in problem
    edit(toml, "mirror = true", "mirror = false")
    write_clip(toml.parent / "clips" / "clip_0.mp4", 0)
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 3


def test_caches_of_two_vaes_are_refused(toml: Path, tiny_pipeline: Path) -> None:
    other = Encoders.load(tiny_pipeline)
    next(other.vae.encoder.parameters()).data += 0.01
    write_clip(toml.parent / "clips" / "clip_3.mp4", 3).with_suffix(".txt").write_text("a late one")
    edit(toml, "/cache", "/other")
    cache_dataset(load_dataset_config(toml), other, progress=False)
    for path in (toml.parent / "other").glob("clip_3*"):
        shutil.copy(path, toml.parent / "cache")
    edit(toml, "/other", "/cache")
    (problem,) = refused(toml)
    assert problem.startswith(f"{toml}: expected caches of one VAE, found 3 of ")
    assert main(["cache", "status", str(toml)]) == 1
    assert run(toml, tiny_pipeline).written == 1
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 4


def test_a_clip_without_any_cache_is_left_out_and_half_a_cache_is_named(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=2)
    edit(toml, "[5]", '[1, 5]\nframe_extraction = "chunk"')
    run(toml, tiny_pipeline)
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 2 * 6
    (tmp_path / "cache" / "clip_0_00002-001_0032x0032_wan.safetensors").unlink()
    (problem,) = refused(toml)
    assert "1 clip is not cached to the end: " in problem
    for path in (tmp_path / "cache").glob("clip_0*"):
        path.unlink()
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 6


def test_what_upstream_cached_trains_while_it_fits(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_foreign(toml.parent / "cache")
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 3
    assert main(["cache", "status", str(toml)]) == 0
    assert "3 of 3 clips cached" in (said := capsys.readouterr().out)
    assert "3 cached by musubi-tuner" in said
    before = stamps(toml)
    assert main(["cache", "prune", str(toml)]) == 0
    assert stamps(toml) == before
    (toml.parent / "clips" / "clip_0.txt").write_text("another caption: upstream's text cache says its own")
    assert "1 clip is cached for other settings: the caption: " in refused(toml)[0]
    shutil.copy(toml, toml.parent / "first.toml")
    edit(toml, "mirror = false", 'condition = "first_last"')
    assert "3 clips are cached for other settings: condition: " in refused(toml)[0]
    edit(toml.parent / "first.toml", "[32, 32]", "[48, 48]")
    assert "cached for other settings: resolution: " in refused(toml.parent / "first.toml")[0]


def test_caches_of_our_first_version_name_what_their_names_tell(toml: Path) -> None:
    for path in (toml.parent / "cache").glob("*_wan.safetensors"):
        metadata = files.read_metadata(path)
        del metadata["settings"]
        save_file(load_file(path), path, metadata=metadata)
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 3
    edit(toml, "[32, 32]", "[48, 48]")
    assert "cached for other settings: resolution: " in refused(toml)[0]


def test_training_hashes_no_clip_that_the_index_knows(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr(entries, "sha256", refuse)
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 3


def test_training_works_without_the_index_and_leaves_one(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = toml.parent / ".cache.musubi-ext.jsonl"
    index.unlink()
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 3
    assert {json.loads(line)[0] for line in index.read_text().splitlines()} == {"source", "file"}
    test_training_hashes_no_clip_that_the_index_knows(toml, monkeypatch)


def test_an_index_that_cannot_be_written_stops_nothing(toml: Path) -> None:
    index = toml.parent / ".cache.musubi-ext.jsonl"
    index.unlink()
    index.mkdir()  # refused to root as well
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 3
    assert main(["cache", "status", str(toml)]) == 0


def test_trainings_that_start_together_leave_a_whole_index(toml: Path) -> None:
    index = toml.parent / ".cache.musubi-ext.jsonl"
    index.unlink()
    code = (
        "import sys; from musubi_ext.orbits.config import load_dataset_config as load\n"
        "from musubi_ext.orbits.dataset import OrbitDataset\n"
        "print(OrbitDataset(load(sys.argv[1])).num_train_items)"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, str(toml)]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in started] == ["3", "3"]
    facts = [json.loads(line)[:2] for line in index.read_text().splitlines()]
    assert len({tuple(fact) for fact in facts}) == 3 + 6
