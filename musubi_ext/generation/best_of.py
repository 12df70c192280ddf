"""Several seeds, one video: make N candidates, rank them by a metric, keep the best that moves.

    from musubi_ext.generation.best_of import best_of
    from musubi_ext.ranking import ranking

    best_of(rotate, request, 4, ranking("drift")).best.save("orbit.mp4")

Nothing here measures: the ranking is the caller's, so that generation does not depend on evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from musubi_ext.errors import UserError
from musubi_ext.generation.request import GenerationRequest
from musubi_ext.generation.video import Video
from musubi_ext.storage import write_json

SCHEMA = "musubi-ext/best-of"
VERSION = 1
MOST = 64  # candidates
LEAST_MOTION = 0.5  # of the candidates' median motion: the one that moves half as much as its sisters wins by stillness


@dataclass(frozen=True)
class Score:
    """What a ranking says of a video: the metric's value and how much it moves; None with the reason for either.

    `still`: why the video counts as standing still by itself, "" if it moves.
    """

    value: float | None
    motion: float | None
    reason: str = ""
    still: str = ""


class Ranking(Protocol):
    """A metric to rank by. `musubi_ext.ranking.ranking` makes them from the evaluation's metrics."""

    @property
    def metric(self) -> str:
        """Its full name."""

    @property
    def unit(self) -> str:
        """Its unit."""

    @property
    def higher_is_better(self) -> bool:
        """Its direction."""

    def score(self, video: Video) -> Score:
        """Measure one video."""


class PipelineLike(Protocol):
    """What makes videos: `CircleRotate`, or the service's engine."""

    def run(self, request: GenerationRequest, progress: Callable[[int, int], None] | None = None) -> Video:
        """Make the video of a checked request."""


class State(StrEnum):
    """Whether a candidate could win."""

    RANKED = "ranked"
    STILL = "still"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Candidate:
    """One seed's outcome; `rank` is 1 for the best. Those that stand still come after those that move, those that could
    not be measured last, both with the `reason`."""

    seed: int
    value: float | None
    motion: float | None
    state: State
    rank: int
    reason: str = ""


@dataclass(frozen=True)
class Ranked:
    """The best video, and every candidate, best first."""

    best: Video
    candidates: tuple[Candidate, ...]
    metric: str
    unit: str
    higher_is_better: bool

    def as_dict(self) -> dict[str, Any]:
        """All scores as plain JSON values."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "metric": self.metric,
            "unit": self.unit,
            "better": "higher" if self.higher_is_better else "lower",
            "chosen_seed": self.candidates[0].seed,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }

    def write(self, path: Path | str) -> None:
        """Write the scores, whole or not at all."""
        write_json(path, self.as_dict())


def best_of(
    pipeline: PipelineLike,
    request: GenerationRequest,
    n: int,
    rank_by: Ranking,
    progress: Callable[[int, int], None] | None = None,
) -> Ranked:
    """Make `n` videos with the seeds seed, seed + 1, … and keep the best; the same request gives the same answer.

    A candidate that stands still, by itself or beside the others (below half their median motion), cannot win.
    `progress` counts the steps of all. Raises UserError for a count outside 1 to 64, for seeds that end beyond 2^63,
    and with every reason when no candidate can be chosen.
    """
    requests = _requests(request, n)
    videos: dict[int, Video] = {}
    scores: dict[int, Score] = {}
    for index, one in enumerate(requests):
        try:
            video = pipeline.run(one, _shifted(progress, index, n))
        except FloatingPointError as error:
            scores[one.seed] = Score(None, None, str(error))
            continue
        found = scores[one.seed] = rank_by.score(video)
        if found.value is not None and not found.still:  # the others cannot win: their frames need no memory
            videos[one.seed] = video
    candidates = rank(scores, rank_by.higher_is_better)
    if candidates[0].state is not State.RANKED:
        listed = [f"seed {candidate.seed}: {candidate.reason}" for candidate in candidates]
        raise UserError([f"best of {n}: no candidate can be ranked by {rank_by.metric}", *listed])
    best = videos[candidates[0].seed]
    return Ranked(best, tuple(candidates), rank_by.metric, rank_by.unit, rank_by.higher_is_better)


def rank(scores: dict[int, Score], higher_is_better: bool) -> list[Candidate]:
    """Candidates by seed → best first: those that move by value, then the still ones, then the unavailable; ties by
    seed."""
    moving = [s.motion for s in scores.values() if s.value is not None and s.motion is not None and not s.still]
    floor = LEAST_MOTION * median(moving) if moving else 0.0
    judged = [(seed, score, *_state(score, floor)) for seed, score in scores.items()]
    order = list(State)

    def key(item: tuple[int, Score, State, str]) -> tuple[int, float, int]:
        seed, score, state, _ = item
        value = score.value or 0.0
        return order.index(state), -value if higher_is_better else value, seed

    return [
        Candidate(seed, score.value, score.motion, state, place, reason)
        for place, (seed, score, state, reason) in enumerate(sorted(judged, key=key), 1)
    ]


def _state(score: Score, floor: float) -> tuple[State, str]:
    if score.value is None or score.motion is None:
        return State.UNAVAILABLE, score.reason or "unavailable"
    if score.still:
        return State.STILL, score.still
    if score.motion < floor:
        return State.STILL, f"moves {score.motion:.3g}, below {floor:.3g}, half the median of the candidates"
    return State.RANKED, ""


def check_count(n: object, seed: int) -> None:
    """Raise UserError unless `n` candidates can be made from `seed` on."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST:
        raise UserError(f"best_of: expected a whole number from 1 to {MOST}, found {n!r}")
    if seed + n > 2**63:
        raise UserError(f"best_of {n}: the last seed, {seed + n - 1}, is above 2^63 - 1 (take a smaller seed)")


def _requests(request: GenerationRequest, n: int) -> Sequence[GenerationRequest]:
    """All of them before the first is made: what is wrong with the last seed is said at once."""
    check_count(n, request.seed)
    return [replace(request, seed=request.seed + index) for index in range(n)]


def _shifted(progress: Callable[[int, int], None] | None, index: int, n: int) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    report = progress
    return lambda done, steps: report(index * steps + done, n * steps)
