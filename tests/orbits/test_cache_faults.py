"""What goes wrong while caching: a clip in the middle, the disk, a kill, another run; and what prune leaves alone."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_data import data, run, stamps
from rich.console import Console

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.locks import locked
from musubi_ext.orbits.cache import files
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.run import LatentRun
from musubi_ext.orbits.cache.space import workloads, writing
from musubi_ext.orbits.cache.status import cache_status
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.orbits.dataset import OrbitDataset
from musubi_ext.video import write_mp4

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # <linux/prctl.h>, <linux/capability.h>


class Poisoned(Encoders):
    """A VAE that makes no numbers of bright clips."""

    def encode_windows(self, windows: Any, *, last: bool) -> Any:
        """As its parent, NaN for windows whose mean is above the middle."""
        latents, images = super().encode_windows(windows, last=last)
        for latent, window in zip(latents, windows, strict=True):
            if window.mean() > 140:
                latent[:] = float("nan")
        return latents, images


class Small(Encoders):
    """A device that holds two small windows."""

    sizes: list[int] = []  # noqa: RUF012 - of the batches that were tried

    def encode_windows(self, windows: Any, *, last: bool) -> Any:
        """As its parent where it fits."""
        self.sizes.append(len(windows))
        if len(windows) * windows[0].shape[1] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode_windows(windows, last=last)


def chunks(tmp_path: Path) -> Path:
    toml = data(tmp_path, count=4)
    toml.write_text(toml.read_text() + 'frame_extraction = "chunk"\n')
    return toml


def test_a_clip_that_fails_inside_a_batch_takes_no_other_along(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = chunks(tmp_path)
    bright = tmp_path / "clips" / "clip_1.mp4"
    noise = np.random.default_rng(9).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    write_mp4(bright, np.concatenate([noise, noise // 4 + 190]), 16)
    encoders = Poisoned.load(tiny_pipeline)
    summary = cache_dataset(load_dataset_config(toml), encoders, progress=False, keep_stale=True)
    assert summary.written == 3
    (bad,) = summary.bad
    assert bad[0] == bright
    assert "NaN or infinity" in bad[1]
    assert not [name for name in stamps(toml) if name.startswith("clip_1")]  # nor its first window, which is sound
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 3


def test_a_batch_that_does_not_fit_is_halved_and_a_window_that_does_not_is_named(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    toml = data(tmp_path, count=8)
    Small.sizes.clear()
    summary = cache_dataset(load_dataset_config(toml), Small.load(tiny_pipeline), progress=False)
    assert (summary.written, summary.bad) == (8, [])
    assert Small.sizes == [8, 4, 2, 2, 4, 2, 2]
    toml.write_text(toml.read_text().replace("[32, 32]", "[80, 80]"))
    with pytest.raises(UserError) as raised:
        cache_dataset(load_dataset_config(toml), Small.load(tiny_pipeline), console=Console(file=StringIO()))
    assert "clip_0.mp4: 5 frames at 80x80 do not fit the memory of cpu" in raised.value.problems[1]


def test_frames_that_wait_for_others_of_their_shape_are_bounded(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = data(tmp_path, count=3)
    toml.write_text(toml.read_text().replace("[5]", "[1, 5]"))
    plans = cache_status(load_dataset_config(toml), Encoders.load(tiny_pipeline).vae_id).plans
    one = 32 * 32 * 3
    run_of = LatentRun(Encoders.load(tiny_pipeline), lambda plan: None, room=8 * one)
    held = []
    real = run_of._encode
    monkeypatch.setattr(run_of, "_encode", lambda shape: (held.append({s[0]: len(w) for s, w in
                        run_of.waiting.items()}), real(shape)))  # fmt: skip
    run_of.run(plans)
    assert held[0] == {1: 2, 5: 2}  # windows by frames: 2 + 10 frames of which 8 may wait, so the longer ones go
    assert all(1 * count.get(1, 0) + 5 * count.get(5, 0) <= 8 + 6 for count in held)
    assert len(list((tmp_path / "cache").iterdir())) == 6


def test_a_disk_that_fills_up_with_the_captions_ends_in_a_sentence(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml, real = data(tmp_path), files.save_file

    def full(tensors: dict[str, Any], path: Path, **options: Any) -> None:
        if "_te" in path.name and "clip_2" in path.name:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", full)
        with pytest.raises(UserError, match="the disk is full") as raised:
            run(toml, tiny_pipeline)
    assert len(raised.value.problems) == 1
    assert len(stamps(toml)) == 5 + 2
    assert run(toml, tiny_pipeline).skipped == 5
    assert len(stamps(toml)) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_write_that_the_system_refuses_is_said_as_it_says_it(tmp_path: Path) -> None:
    """The file's size limit, in place of the disk's: safetensors, which writes by itself, words it in its own way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(UserError, match="cannot be written to: File too large"), writing(tmp_path):
            files.write_text(tmp_path / "a_wan_te.safetensors", torch.zeros(99, 99), "a", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def as_a_user() -> None:
    """Run in the child: root is refused what the permissions say, as everyone is."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux where the tests run as root")
def test_a_read_only_cache_folder(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=2)
    run(toml, tiny_pipeline)
    (tmp_path / ".cache.musubi-ext.jsonl").unlink()
    os.chmod(tmp_path / "cache", 0o555)
    os.chmod(tmp_path, 0o555)
    code = (
        "import sys; from musubi_ext.cli import main\n"
        "from musubi_ext.orbits.config import load_dataset_config as load\n"
        "from musubi_ext.orbits.dataset import OrbitDataset\n"
        "print(OrbitDataset(load(sys.argv[1])).num_train_items, main(['cache', 'status', sys.argv[1]]))\n"
        "words = ['data', 'cache', '--dataset_config', sys.argv[1], '--base', sys.argv[2], '--cpu']\n"
        "print('complete', main(words))\n"
        "open(sys.argv[1].replace('data.toml', 'clips/clip_0.txt'), 'w').write('another caption')\n"
        "print('incomplete', main(words))\n"
    )
    words = [sys.executable, "-c", code, str(toml), str(tiny_pipeline)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=env, preexec_fn=as_a_user)
    except subprocess.SubprocessError as error:  # of preexec_fn
        pytest.skip(f"root may do everything here and cannot give that up: {error}")
    finally:
        os.chmod(tmp_path, 0o755)
        os.chmod(tmp_path / "cache", 0o755)
    said = done.stdout.splitlines()
    assert "2 0" in said, done.stderr[-2000:]
    assert said[-2:] == ["complete 0", "incomplete 2"]
    assert f"error: {tmp_path}/cache: cannot be written to: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=1)
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(UserError, match="expected a folder to write to, found: File exists"):
        run(toml, tiny_pipeline)


def test_what_a_kill_left_is_swept(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=1)
    run(toml, tiny_pipeline)
    left = tmp_path / "cache" / ".clip_0_00000-005_0032x0032_wan.0123abcd.safetensors"
    for path in (left, tmp_path / "cache" / ".not_ours.0123abcd.safetensors"):
        path.write_bytes(b"half")
    assert main(["cache", "status", str(toml)]) == 1
    assert run(toml, tiny_pipeline).skipped == 1
    assert not left.exists()
    assert (tmp_path / "cache" / ".not_ours.0123abcd.safetensors").exists()


def test_a_second_run_waits_for_the_first_and_finds_its_work_done(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=2)
    console, found = Console(file=StringIO(), width=300), []
    config = load_dataset_config(toml)

    def second() -> None:
        found.append(cache_dataset(config, tiny_pipeline, progress=False, console=console))

    with locked(tmp_path / "cache", "taken"):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 30
        while "waiting" not in console.file.getvalue() and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.05)
        assert not found
        assert "another run is writing caches there: waiting" in console.file.getvalue()  # type: ignore[attr-defined]
        shadow = tmp_path / "shadow"
        shadow.mkdir()
        run(data(shadow, count=2), tiny_pipeline)
        for path in (shadow / "cache").iterdir():
            path.rename(tmp_path / "cache" / path.name)
    thread.join(60)
    assert [(summary.written, summary.skipped) for summary in found] == [(0, 2)]


def test_a_lock_is_gone_with_its_process_and_a_folder_made_for_nothing_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="taken"), locked(tmp_path / "new", "a"), locked(tmp_path / "new", "taken"):
        pass
    assert not (tmp_path / "new").exists()
    code = "import sys, time; from musubi_ext.locks import locked; from pathlib import Path\n" \
           "with locked(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"  # fmt: skip
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="taken"), locked(tmp_path, "taken"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with locked(tmp_path, "taken"):
        descriptor = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


@pytest.mark.parametrize("inside", ["clips", "clips/cache"])
def test_a_cache_folder_inside_the_folder_of_clips(tmp_path: Path, tiny_pipeline: Path, inside: str) -> None:
    toml = data(tmp_path, count=2)
    toml.write_text(toml.read_text().replace(f"{tmp_path}/cache", f"{tmp_path}/{inside}"))
    (tmp_path / "clips" / "clip_0.npz").write_bytes(b"truth")
    assert run(toml, tiny_pipeline).written == 2
    assert run(toml, tiny_pipeline).skipped == 2
    assert OrbitDataset(load_dataset_config(toml)).num_train_items == 2
    (tmp_path / "clips" / "clip_0.mp4").unlink()
    (tmp_path / "clips" / "clip_0.txt").unlink()
    assert main(["cache", "prune", str(toml)]) == 0
    left = {path.name for path in (tmp_path / "clips").iterdir()} - {"cache"}
    assert {name for name in left if "_wan" not in name and "musubi-ext" not in name} == {
        "clip_0.npz", "clip_1.mp4", "clip_1.txt"}  # fmt: skip
    assert len(list((tmp_path / inside).glob("*_wan*"))) == 2


def test_prune_deletes_caches_alone_and_of_links_the_link(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = data(tmp_path, count=2)
    run(toml, tiny_pipeline)
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    elsewhere.mkdir()
    gone = "gone_00000-005_0032x0032_wan.safetensors"
    for path in (elsewhere / gone, cache / "notes.txt", cache / "image_0032x0032_wan.safetensors",
                 cache / "gone_00000-005_0032x0032_hv.safetensors", cache / "model.safetensors"):  # fmt: skip
        path.write_bytes(b"something")
    (cache / gone).symlink_to(elsewhere / gone)
    (cache / "more").symlink_to(elsewhere, target_is_directory=True)
    (cache / "folder_wan_te.safetensors").mkdir()
    before = set(stamps(toml))
    assert main(["cache", "prune", str(toml), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"would delete: {cache / gone}"
    assert main(["cache", "prune", str(toml)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"stale: {cache / gone}"
    assert before - set(stamps(toml)) == {gone}
    assert (elsewhere / gone).read_bytes() == b"something"


def test_a_clip_that_cannot_be_read_now_keeps_its_caches(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = data(tmp_path, count=2)
    run(toml, tiny_pipeline)
    before, clip = stamps(toml), tmp_path / "clips" / "clip_0.mp4"
    with pytest.MonkeyPatch.context() as patch:
        from musubi_ext.orbits.cache import entries

        def refuse(path: Path) -> str:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        os.utime(clip)
        patch.setattr(entries, "sha256", refuse)
        status = cache_status(load_dataset_config(toml))
        assert (len(status.unreadable), status.stale) == (1, [])
        assert main(["cache", "prune", str(toml)]) == 0
    assert stamps(toml) == before


def decoders() -> set[str]:
    """Process ids of this process's decoding workers; other tests leave theirs waiting."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    of = children.read_text().split() if children.exists() else []
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in of}
    return {pid for pid, path in commands.items() if path.exists() and b"decode.worker" in path.read_bytes()}


def test_clips_are_probed_by_workers_that_end(tmp_path: Path, tiny_pipeline: Path) -> None:
    toml = chunks(tmp_path)
    (tmp_path / "clips" / "clip_3.mp4").write_bytes(b"torn")
    plans, before = cache_status(load_dataset_config(toml)).plans, decoders()
    assert [len(one.windows) for one in workloads(plans)] == [1, 1, 1, 0]
    assert decoders() <= before
