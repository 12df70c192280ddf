"""Caching again: nothing done twice, killed runs go on, full disks stop, processes share the clips, status, prune."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_data import data, run, stamps
from safetensors.torch import load_file, save_file

from musubi_ext.commands import cache as command
from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache import entries, files, space
from musubi_ext.orbits.cache import run as cache_run
from musubi_ext.orbits.cache.command import main
from musubi_ext.orbits.cache.files import latent_files
from musubi_ext.orbits.cache.index import CacheIndex
from musubi_ext.orbits.cache.models import ModelFiles
from musubi_ext.orbits.cache.processes import Alone
from musubi_ext.orbits.cache.status import cache_status
from musubi_ext.orbits.cache.trainable import trainable
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.video import write_mp4


def test_a_second_run_decodes_hashes_and_loads_nothing(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = data(tmp_path)
    assert run(toml, tiny_pipeline).written == 5

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("not needed")

    for module, name in ((cache_run, "decode"), (entries, "sha256"), (entries, "read_metadata")):
        monkeypatch.setattr(module, name, refuse)
    models = ModelFiles(base=tiny_pipeline)
    assert cache_dataset(load_dataset_config(toml), models, progress=False).skipped == 5
    assert "encoders" not in vars(models)


def test_without_the_index_a_clip_is_hashed_again_and_still_recognised(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path)
    run(toml, tiny_pipeline)
    before = stamps(toml)
    (tmp_path / ".cache.musubi-ext.jsonl").unlink()
    assert run(toml, tiny_pipeline).skipped == 5
    os.utime(tmp_path / "clips" / "clip_0.mp4")  # touched, not changed
    assert run(toml, tiny_pipeline).skipped == 5
    assert stamps(toml) == before


def test_a_torn_line_of_the_index_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    index = CacheIndex(tmp_path / "cache")
    index.put("source", "a", (1, 2), "x")
    index.put("source", "b", (3, 4), "y")
    index.save()
    index.path.write_text(index.path.read_text()[:-9])
    index.put("source", "d", (7, 8), "on a line of its own")
    index.save()
    again = CacheIndex(tmp_path / "cache", process=1)
    assert again.get("source", "d", (7, 8)) == "on a line of its own"
    assert (again.get("source", "a", (1, 2)), again.get("source", "b", (3, 4))) == ("x", None)
    assert again.get("source", "a", (1, 3)) is None
    again.put("source", "c", (5, 6), "z")
    again.gather()
    assert CacheIndex(tmp_path / "cache").get("source", "c", (5, 6)) == "z"


def test_a_full_disk_stops_with_one_sentence_and_goes_on_later(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml, written = data(tmp_path), 0

    def full(*args: object, **options: object) -> None:
        nonlocal written
        written += 1
        if written > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args, **options)

    real = files.save_file
    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", full)
        with pytest.raises(UserError, match="the disk is full") as raised:
            run(toml, tiny_pipeline)
    assert len(raised.value.problems) == 1
    assert len(stamps(toml)) == 2
    assert run(toml, tiny_pipeline).skipped == 2
    assert len(stamps(toml)) == 10


def test_too_little_room_is_refused_before_anything_is_decoded(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = data(tmp_path)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: argparse.Namespace(free=1000))
    with pytest.raises(UserError, match="MB free for the caches, found 0 MB"):
        run(toml, tiny_pipeline)
    assert not (tmp_path / "cache").exists()


def test_estimates_are_from_above(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path)
    plans = cache_status(load_dataset_config(toml)).plans
    (estimate,) = space.bytes_needed(space.workloads(plans), 4).values()
    run(toml, tiny_pipeline)
    written = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*_wan.safetensors"))
    assert written <= estimate <= 1.5 * written


@pytest.mark.parametrize("count", [2, 3])
def test_shares_are_disjoint_and_together_everything(tmp_path: Path, tiny_pipeline: Path, count: int) -> None:
    class Later(Alone):
        """What the other processes report arrives when this one asks: here they have not begun."""

        def gather(self, value: Any) -> list[Any]:
            return [value, *(type(value)() for _ in range(self.count - 1))]

    config = load_dataset_config(data(tmp_path))
    for index in reversed(range(count)):
        options = {"progress": False, "keep_stale": True, "processes": Later(index, count)}
        assert cache_dataset(config, ModelFiles(base=tiny_pipeline), **options).written == len(range(index, 5, count))
    assert cache_status(config).complete


def test_two_processes(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=5)
    (tmp_path / "clips" / "clip_3.mp4").write_bytes(b"torn")
    words = ["-m", "musubi_ext.orbits.cache", str(toml), "--base", str(tiny_pipeline), "--cpu"]
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, *launcher, *words], env=env, capture_output=True, text=True, timeout=120)
    assert "4 encoded, 0 were ready, 1 left out" in done.stderr, done.stderr[-3000:]
    assert done.returncode == 1
    assert len(stamps(toml)) == 8
    assert [path.name for path in tmp_path.glob(".cache*")] == [".cache.musubi-ext.jsonl"]


def test_killed_at_any_moment_it_goes_on(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=12, side=64)
    words = [sys.executable, "-m", "musubi_ext.orbits.cache", str(toml), "--base", str(tiny_pipeline), "--cpu"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if list((tmp_path / "cache").glob("clip*_wan.safetensors")):  # of latents: captions come in between
                break
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = {file.path.name for group in latent_files(tmp_path / "cache").values() for file in group}
    before = {name: stamp for name, stamp in stamps(toml).items() if name in finished}
    summary = run(toml, tiny_pipeline)
    assert summary.skipped == len(finished)
    assert summary.written == 12 - len(finished)
    assert finished
    assert before.items() <= stamps(toml).items()
    assert not [name for name in stamps(toml) if name.startswith(".")]


def test_what_killed_runs_left_is_removed(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=1)
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in (".clip_0_00000-005_0032x0032_wan.0a1b2c3d.safetensors", ".tmpA1b2C3", ".gitignore"):
        (cache / name).write_bytes(b"torn")
    run(toml, tiny_pipeline)
    assert [name for name in stamps(toml) if name.startswith(".")] == [".gitignore"]


def test_status_and_prune(tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = data(tmp_path)
    run(toml, tiny_pipeline)
    assert shell(command, "status", str(toml)) == 0
    (tmp_path / "clips" / "clip_0.mp4").unlink()
    (tmp_path / "clips" / "clip_0.txt").unlink()
    (tmp_path / "clips" / "clip_1.txt").write_text("another sentence")
    (tmp_path / "cache" / "clip_2_00000-005_0032x0032_wan.safetensors").write_bytes(b"damaged")
    assert shell(command, "status", str(toml)) == 1
    said = capsys.readouterr().out
    assert "3 of 4 clips cached, 1 missing, 1 captions missing, 4 stale files" in said
    assert "missing: " + str(tmp_path / "clips" / "clip_2.mp4") in said
    before = stamps(toml)
    assert shell(command, "prune", "--dry-run", str(toml)) == 0
    assert stamps(toml) == before
    assert shell(command, "prune", str(toml)) == 0
    assert len(stamps(toml)) == len(before) - 4
    run(toml, tiny_pipeline)
    assert shell(command, "status", str(toml)) == 0


def shell(module: object, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_command_names_everything_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = data(tmp_path, count=1)
    assert main([str(toml), "--vae", str(tmp_path / "none.pth")]) == 2
    said = capsys.readouterr().err
    assert "none.pth: expected a weight file, found nothing" in said
    assert "--t5: expected its file, found nothing" in said
    (tmp_path / "vae.pth").write_bytes(b"no weights")
    models = ModelFiles(vae=tmp_path / "vae.pth", t5=tmp_path / "gone.pth", tokenizer=tmp_path)
    with pytest.raises(UserError) as raised:
        cache_dataset(load_dataset_config(toml), models, progress=False)
    assert len(raised.value.problems) == 3


def test_only_current_entries_and_upstreams_are_trainable(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=3)
    run(toml, tiny_pipeline)
    write_mp4(tmp_path / "clips" / "clip_0.mp4", np.zeros((5, 32, 32, 3), np.uint8), 16)  # another clip by its name
    foreign = tmp_path / "cache" / "clip_1_00000-005_0032x0032_wan.safetensors"
    tensors = load_file(foreign)
    save_file(tensors, foreign, metadata=files.FORMAT)
    problems = Problems()
    found = trainable(load_dataset_config(toml), problems)
    names = [file.path.name for one in found for file in one.files]
    assert names == [foreign.name, foreign.name.replace("1", "2", 1)]
    assert [one.vae != "" for one in found] == [False, True]
    assert len(problems.found) == 1
    assert "cached for other settings: the clip itself: " + str(tmp_path / "clips" / "clip_0.mp4") in problems.found[0]


def test_a_dry_run_writes_nothing(tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = data(tmp_path, count=2)
    assert main([str(toml), "--base", str(tiny_pipeline), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "0 of 2 clips cached, 2 missing, 2 captions missing" in said
    assert "cache: at most 0.0 MB of latents to write" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "data.toml"]
