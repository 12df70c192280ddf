"""Frames that come one by one from the decoding process: the same frames, in bounded memory, at the reader's pace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from musubi_ext.errors import UserError
from musubi_ext.orbits.decode.pool import SLOTS, DecodePool
from musubi_ext.video import Frames, write_mp4

SIZE = (64, 48)
COUNT = 5 * SLOTS + 1


@pytest.fixture(scope="module")
def frames() -> Frames:
    return np.random.default_rng(0).integers(0, 255, (COUNT, SIZE[1], SIZE[0], 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, frames: Frames) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_mp4(path, frames, 16)
    return path


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, time_limit=1.0) as pool:
        yield pool


def test_frames_are_those_of_load_and_stay_as_they_were(pool: DecodePool, clip: Path) -> None:
    loaded = pool.load(clip, SIZE)
    assert np.array_equal(np.stack(list(pool.stream(clip, SIZE))), loaded)
    assert np.array_equal(np.stack(list(pool.stream(clip, (32, 32)))), pool.load(clip, (32, 32)))


def test_a_slow_reader_is_waited_for(pool: DecodePool, clip: Path) -> None:
    """The limit is for the decoder: a reader that takes longer than it does not fail."""
    stream = pool.stream(clip, SIZE)
    next(stream)
    time.sleep(1.5)
    assert len(list(stream)) == COUNT - 1


def test_leaving_early_frees_the_worker(pool: DecodePool, clip: Path) -> None:
    for _ in range(3):
        stream = pool.stream(clip, SIZE)
        next(stream)
        stream.close()
    assert len(list(pool.stream(clip, SIZE))) == COUNT


def test_damage_is_said_after_the_frames_before_it_and_the_next_clip_is_read(
    pool: DecodePool, clip: Path, tmp_path: Path
) -> None:
    whole = pool.load(clip, SIZE)
    spoiled, middle = bytearray(clip.read_bytes()), clip.stat().st_size // 2
    spoiled[middle : middle + 4000] = b"\x55" * 4000
    path = tmp_path / "spoiled.mp4"
    path.write_bytes(spoiled)
    found: list[Frames] = []
    with pytest.raises(UserError, match=r"spoiled\.mp4"):
        found.extend(pool.stream(path, SIZE))  # keeps what came before the error
    pids = pool.pids
    assert 0 < len(found) < COUNT
    assert np.array_equal(np.stack(found), whole[: len(found)])
    assert np.array_equal(np.stack(list(pool.stream(clip, SIZE))), whole)
    assert pool.pids == pids


def test_no_clip_no_frame(pool: DecodePool, tmp_path: Path) -> None:
    (tmp_path / "none.mp4").write_bytes(b"no clip")
    for name in ("none.mp4", "absent.mp4"):
        with pytest.raises(UserError, match=name):
            next(pool.stream(tmp_path / name, SIZE))
