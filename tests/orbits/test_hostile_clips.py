"""Some hundred hostile files through the workers: none crashes us, hangs, writes anything, or goes unnamed."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hostile_corpus import EITHER, READABLE, REFUSED, Hostile, build

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.decode.pool import DecodePool

TIME_LIMIT = 8.0  # seconds
MEMORY_LIMIT = 192 << 20  # bytes
SIZE = (128, 96)


@dataclass(frozen=True)
class Outcome:
    """What reading a file came to: its frames, or the one sentence that refuses it, and the seconds it took."""

    hostile: Hostile
    frames: int
    reason: str
    seconds: float


def read(pool: DecodePool, hostile: Hostile) -> Outcome:
    begun = time.monotonic()
    frames, reasons = 0, []
    try:
        frames = pool.probe(hostile.path).frames
        loaded = pool.load(hostile.path, SIZE)
        assert loaded.dtype == np.uint8
        assert loaded.shape[1:] == (96, 128, 3)
        frames = len(loaded)
    except UserError as error:
        reasons = list(error.problems)
    assert len(reasons) <= 1
    return Outcome(hostile, frames, "".join(reasons), time.monotonic() - begun)


def listing(folder: Path) -> set[tuple[str, int]]:
    found = (Path(parent, name) for parent, folders, files in os.walk(folder) for name in folders + files)
    return {(os.fsdecode(path), path.lstat().st_size) for path in found}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder = tmp_path_factory.mktemp("hostile")
    corpus = build(folder)
    before = listing(folder)
    with DecodePool(3, time_limit=TIME_LIMIT, memory_limit=MEMORY_LIMIT) as pool, ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda hostile: read(pool, hostile), corpus))
    assert listing(folder) == before, "reading wrote something"
    return found


def test_the_corpus_is_large_and_varied(outcomes: list[Outcome]) -> None:
    kinds = Counter(outcome.hostile.path.parts[-2] for outcome in outcomes)
    assert len(outcomes) >= 150
    assert len(kinds) >= 11


def test_each_does_what_it_must(outcomes: list[Outcome]) -> None:
    wrong = [
        outcome
        for outcome in outcomes
        if (outcome.hostile.verdict == REFUSED and not outcome.reason)
        or (outcome.hostile.verdict == READABLE and outcome.reason)
        or (outcome.hostile.verdict == EITHER and not outcome.reason and not outcome.frames)
    ]
    assert not wrong


def test_each_refusal_names_the_file_on_one_line_with_a_reason(outcomes: list[Outcome]) -> None:
    form = re.compile(
        r"(expected .+, found.+|took longer than 8 s .+|needed more than 192 MiB .+|the decoder crashed .+)"
    )
    for outcome in outcomes:
        if outcome.reason:
            name = shown(outcome.hostile.path)
            assert outcome.reason.isprintable()
            assert outcome.reason.startswith(f"{name}: ")
            assert form.match(outcome.reason.removeprefix(f"{name}: ")), outcome.reason


def test_no_error_of_our_own_ends_a_worker(outcomes: list[Outcome]) -> None:
    assert [outcome.reason for outcome in outcomes if "exit status" in outcome.reason] == []


def test_nothing_takes_longer_than_the_limit(outcomes: list[Outcome]) -> None:
    slack = 3 * TIME_LIMIT  # probe and load each have the limit; starting a worker again and busy machines
    assert [outcome for outcome in outcomes if outcome.seconds > 2 * TIME_LIMIT + slack] == []


def test_bombs_and_holes_meet_their_limits(outcomes: list[Outcome]) -> None:
    reasons = {outcome.hostile.path.name: outcome.reason for outcome in outcomes}
    assert "needed more than 192 MiB" in reasons["large.gif"]
    assert "expected at most" in reasons["many.gif"]
    if "hole.webm" in reasons:
        assert "took longer than 8 s" in reasons["hole.webm"]
