"""The decoding processes: same frames as in this process; late, large and crashed ones end; none stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hostile_corpus import webm_head
from PIL import Image

from musubi_ext.errors import UserError
from musubi_ext.orbits import clips
from musubi_ext.orbits.decode import pool as decoding
from musubi_ext.orbits.decode.pool import DecodePool
from musubi_ext.video import write_mp4

SIZE = (48, 32)
PATIENCE = 20.0  # seconds until something that must happen has happened on a busy machine
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and sets Linux's memory limit")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = np.random.default_rng(1).integers(0, 256, (20, 48, 64, 3)).astype(np.uint8)
    write_mp4(tmp_path / "clip.mp4", frames, 16)
    return tmp_path / "clip.mp4"


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A terabyte of zeros behind a header: libav searches it for the next frame."""
    path = tmp_path / "endless.webm"
    path.write_bytes(webm_head("V_VP9", 64, 48))
    os.truncate(path, 1 << 40)
    return path


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool() as made:
        yield made


def alive(pid: int) -> bool:
    """Whether the process still runs; a zombie does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@contextmanager
def later(action: Callable[[], object], seconds: float = 0.3) -> Iterator[None]:
    timer = threading.Timer(seconds, action)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_the_same_as_in_this_process(pool: DecodePool, clip: Path) -> None:
    assert pool.probe(clip) == clips.probe(clip)
    for options in ({}, {"limit": 5}, {"limit": 7, "source_fps": 30.0}):
        np.testing.assert_array_equal(pool.load(clip, SIZE, **options), clips.load_frames(clip, SIZE, **options))


def test_real_clips(pool: DecodePool, sample_data: Path) -> None:
    for path in sorted((sample_data / "train").glob("*.mp4"))[:2]:
        info = pool.probe(path)
        np.testing.assert_array_equal(pool.load(path, info.size), clips.load_frames(path, info.size))


def test_errors_are_those_of_this_process(pool: DecodePool, tmp_path: Path) -> None:
    for name in ("missing.mp4", "new\nline.mp4", os.fsdecode(b"\xff.mp4")):
        with pytest.raises(UserError) as here:
            clips.probe(tmp_path / name)
        with pytest.raises(UserError) as there:
            pool.probe(tmp_path / name)
        assert there.value.problems == here.value.problems


def test_frames_are_ours_to_change_and_outlive_the_pool(clip: Path) -> None:
    with DecodePool() as pool:
        first, second = pool.load(clip, SIZE), pool.load(clip, SIZE)
    kept = second.copy()
    first[:] = 0
    np.testing.assert_array_equal(second, kept)


def test_a_hang_ends_at_the_limit_and_the_next_clip_is_read(clip: Path, endless: Path) -> None:
    with DecodePool(time_limit=1.5) as pool:
        before = pool.probe(clip)
        worker = pool.pids[0]
        begun = time.monotonic()
        with pytest.raises(UserError, match=r"endless\.webm: took longer than 1\.5 s"):
            pool.load(endless, SIZE)
        assert 1.5 <= time.monotonic() - begun < PATIENCE
        assert not alive(worker)
        assert pool.probe(clip) == before


def test_growth_ends_at_the_limit(tmp_path: Path) -> None:
    Image.new("P", (6000, 4000)).save(tmp_path / "large.gif")
    with (
        DecodePool(memory_limit=64 << 20) as pool,
        pytest.raises(UserError, match=r"large\.gif: needed more than 64 MiB"),
    ):
        pool.load(tmp_path / "large.gif", SIZE)


def test_too_many_frames_end_at_the_limit(clip: Path) -> None:
    with (
        DecodePool(memory_limit=64 << 20) as pool,
        pytest.raises(UserError, match=r"expected at most 10 frames at 1920x1088, found more"),
    ):
        pool.load(clip, (1920, 1088))


def test_a_crash_costs_one_clip(clip: Path, endless: Path) -> None:
    with DecodePool() as pool:
        pool.probe(clip)
        worker = pool.pids[0]
        with later(lambda: os.kill(worker, signal.SIGSEGV)), pytest.raises(UserError, match=r"crashed \(signal 11, "):
            pool.load(endless, SIZE)
        assert pool.load(clip, SIZE).shape == (20, 32, 48, 3)
        for _ in range(2):
            os.kill(pool.pids[0], signal.SIGKILL)  # while idle: no clip's doing
            assert pool.load(clip, SIZE).shape == (20, 32, 48, 3)


def refused(pool: DecodePool, path: Path) -> None:
    with pytest.raises((UserError, RuntimeError)):
        pool.load(path, SIZE)


def test_several_at_once(clip: Path, endless: Path) -> None:
    with DecodePool(2, time_limit=PATIENCE) as pool:
        stuck = threading.Thread(target=refused, args=(pool, endless))
        stuck.start()
        assert eventually(lambda: len(pool.pids) == 1)
        for _ in range(3):
            assert len(pool.load(clip, SIZE)) == 20
        assert len(pool.pids) == 2
        pool.close()
        stuck.join(PATIENCE)
        assert not stuck.is_alive()


def test_a_closed_pool_says_so_and_leaves_no_process(clip: Path, endless: Path) -> None:
    pool = DecodePool()
    pool.probe(clip)
    worker = pool.pids[0]
    with later(pool.close), pytest.raises(RuntimeError, match="closed while it decoded"):
        pool.load(endless, SIZE)
    assert not alive(worker)
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.probe(clip)
    pool.close()


def test_ctrl_c_leaves_no_stale_answer(clip: Path, endless: Path) -> None:
    with DecodePool() as pool:
        expected = pool.load(clip, SIZE)
        worker = pool.pids[0]
        with later(lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
            pool.load(endless, SIZE)
        assert not alive(worker)
        np.testing.assert_array_equal(pool.load(clip, SIZE), expected)


@pytest.mark.parametrize("death", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_us(clip: Path, endless: Path, death: signal.Signals) -> None:
    code = (
        "import sys; from musubi_ext.orbits.decode import pool as decoding\n"
        "decoding.probe(sys.argv[1]); print(decoding._default().pids[0], flush=True)\n"
        "decoding.load_frames(sys.argv[2], (32, 32))"
    )
    command = [sys.executable, "-c", code, str(clip), str(endless)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert alive(worker)
        time.sleep(0.2)
        process.send_signal(death)
        process.wait(PATIENCE)
        assert eventually(lambda: not alive(worker))


def test_a_fork_has_workers_of_its_own(clip: Path) -> None:
    code = (
        "import os, sys; from musubi_ext.orbits.decode import pool as decoding\n"
        "load = lambda: decoding.load_frames(sys.argv[1], (48, 32)).sum()\n"
        "expected, child = load(), os.fork()\n"
        "good = all(load() == expected for _ in range(10))\n"
        "if not child: decoding._close_default(); os._exit(not good)\n"
        "sys.exit(not good or os.waitpid(child, 0)[1])"
    )
    assert subprocess.run([sys.executable, "-c", code, str(clip)], timeout=60, check=False).returncode == 0


def test_no_descriptor_stays_open(clip: Path, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with DecodePool() as pool:
        for _ in range(20):
            pool.load(clip, SIZE)
            with pytest.raises(UserError):
                pool.probe(tmp_path / "missing.mp4")
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_limits_in_words(pool: DecodePool) -> None:
    assert pool.limits() == "60 s, 4 GiB"


def test_the_default_pool_is_one(clip: Path) -> None:
    assert decoding.probe(clip) == clips.probe(clip)
    np.testing.assert_array_equal(decoding.load_frames(clip, SIZE, limit=3), clips.load_frames(clip, SIZE, limit=3))
    assert len(decoding._default().pids) == 1
    decoding._close_default()
    decoding._forget_default()
