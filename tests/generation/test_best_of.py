"""The best of several seeds: by the metric's direction, never a still one, every reason kept; on the tiny pipeline."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.generation.best_of import Score, State, best_of, rank
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.generation.request import GenerationRequest
from musubi_ext.generation.video import Video
from musubi_ext.ranking import ranking
from musubi_ext.storage import sha256
from musubi_ext.video import read_comment

SMALL = ("--size", "32x32", "--frames", "5", "--steps", "2", "--guidance", "1", "--guidance_2", "1")


@dataclass
class BySeed:
    """A ranking by a table: what a video of each seed scores."""

    scores: dict[int, Score]
    metric: str = "subject_drift"
    unit: str = "px"
    higher_is_better: bool = False
    asked: list[int] = field(default_factory=list)

    def score(self, video: Video) -> Score:
        seed = video.request["seed"]
        self.asked.append(seed)
        return self.scores[seed]


class Frozen:
    """A pipeline whose videos repeat the first frame, but for some seeds."""

    def __init__(self, *moving: int, broken: tuple[int, ...] = ()) -> None:
        self.moving, self.broken = moving, broken

    def run(self, request: GenerationRequest, progress=None) -> Video:
        if request.seed in self.broken:
            raise FloatingPointError("the model produced values that are not finite")
        if progress is not None:
            for step in range(request.steps):
                progress(step + 1, request.steps)
        first = np.asarray(request.first_frame)
        shift = 2 if request.seed in self.moving else 0
        frames = np.stack([np.roll(first, shift * i, 1) for i in range(request.frames)])
        return Video(frames, 8.0, request.record(), {}, 0.0)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A red block on textured ground."""
    picture = np.random.default_rng(0).integers(60, 120, (64, 64, 3), dtype=np.uint8)
    picture[24:40, 24:40] = (220, 30, 30)
    path = tmp_path / "first.png"
    Image.fromarray(picture).save(path)
    return path


def request(first: Path, **settings) -> GenerationRequest:
    return GenerationRequest("a red block", first, frames=9, **{"steps": 2, "seed": 3} | settings)


def test_rank_puts_movers_by_value_then_still_ones_then_the_unavailable() -> None:
    scores = {
        1: Score(2.0, 1.0),
        2: Score(0.0, 0.01),  # half as much as its sisters
        3: Score(1.5, 1.2),
        4: Score(None, 1.0, "the subject was lost"),
        5: Score(0.0, 0.0, still="stands still"),
        6: Score(1.5, 1.0),
    }
    found = rank(scores, higher_is_better=False)
    assert [candidate.seed for candidate in found] == [3, 6, 1, 2, 5, 4]
    assert [candidate.rank for candidate in found] == [1, 2, 3, 4, 5, 6]
    assert [candidate.state for candidate in found] == [State.RANKED] * 3 + [State.STILL] * 2 + [State.UNAVAILABLE]
    assert found[-1].reason == "the subject was lost"
    assert "half the median" in found[3].reason
    assert [candidate.seed for candidate in rank(scores, higher_is_better=True)][:3] == [1, 3, 6]


def test_the_winner_is_the_best_that_moves_and_scores_are_kept(first: Path, tmp_path: Path) -> None:
    scores = {
        3: Score(2.0, 1.0),
        4: Score(0.0, 1.0, still="stands still"),
        5: Score(1.0, 1.0),
        6: Score(None, None, "?"),
    }
    by, steps = BySeed(scores), []
    found = best_of(Frozen(3, 5), request(first), 4, by, lambda done, of: steps.append((done, of)))
    assert by.asked == [3, 4, 5, 6]
    assert steps == [(i, 8) for i in range(1, 9)]
    assert found.best.request["seed"] == 5
    found.write(tmp_path / "scores.json")
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["chosen_seed"] == 5
    assert [(of["seed"], of["state"]) for of in document["candidates"]] == [
        (5, "ranked"), (3, "ranked"), (4, "still"), (6, "unavailable")]  # fmt: skip


def test_nothing_to_choose_is_an_error_with_every_reason(first: Path) -> None:
    scores = {3: Score(None, 1.0, "the subject was lost"), 4: Score(0.0, 0.0, still="stands still")}
    with pytest.raises(UserError) as caught:
        best_of(Frozen(broken=(5,)), request(first), 3, BySeed(scores))
    text = "\n".join(caught.value.problems)
    for part in ("no candidate can be ranked by subject_drift", "seed 3: the subject was lost", "seed 4: stands still",
                 "seed 5: the model produced"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(("n", "seed", "word"), [(0, 0, "1 to 64"), (65, 0, "1 to 64"), (2, 2**63 - 1, "last seed")])
def test_counts_and_seeds_are_checked_before_anything_is_made(first: Path, n: int, seed: int, word: str) -> None:
    by = BySeed({})
    with pytest.raises(UserError, match=word):
        best_of(Frozen(), request(first, seed=seed), n, by)
    assert by.asked == []


def test_a_frozen_video_never_wins_by_the_real_metrics(first: Path) -> None:
    found = best_of(Frozen(5), request(first), 3, ranking("flicker"))
    assert found.candidates[0].seed == 5
    assert [candidate.state for candidate in found.candidates] == [State.RANKED, State.STILL, State.STILL]
    assert found.candidates[1].value == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match="stands still"):
        best_of(Frozen(), request(first), 2, ranking("drift"))


def test_short_names_and_metrics_that_cannot_rank() -> None:
    assert ranking("drift").metric == "subject_drift"
    assert not ranking("drift").higher_is_better
    assert ranking("ssim").higher_is_better
    with pytest.raises(UserError, match="did you mean drift"):
        ranking("drif")
    with pytest.raises(UserError, match="neither way is better for motion_magnitude"):
        ranking("motion_magnitude")


def test_the_tiny_pipeline_gives_the_video_of_the_winning_seed(tiny_pipeline: Path, first: Path) -> None:
    rotate = CircleRotate(tiny_pipeline)
    one = rotate.request(first, "a red block", size=(32, 32), frames=5, steps=1, seed=7, guidance=1.0, guidance_2=1.0)
    found = best_of(rotate, one, 2, ranking("temporal_flicker"))
    values = {candidate.seed: candidate.value for candidate in found.candidates}
    assert set(values) == {7, 8}
    winner = min(values, key=lambda seed: values[seed] or 0.0)
    assert found.best.request["seed"] == winner
    again = rotate.run(rotate.request(first, "a red block", size=(32, 32), frames=5, steps=1, seed=winner,
                                      guidance=1.0, guidance_2=1.0))  # fmt: skip
    assert np.array_equal(found.best.frames, again.frames)


def test_the_command_keeps_the_winner_and_its_scores(
    tiny_pipeline: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.mp4"
    words = ["generate", "--first", str(first), "--prompt", "a red block", *SMALL, "--base", str(tiny_pipeline)]
    chosen = ["--best_of", "2", "--rank_by", "flicker"]
    assert main([*words, *chosen, "--dry-run", "-o", str(out)]) == 0
    assert "2 seeds from 0, by flicker" in capsys.readouterr().out
    assert main([*words, *chosen, "-o", str(out)]) == 0
    scores = json.loads((tmp_path / "a.best_of.json").read_text())
    assert scores["metric"] == "temporal_flicker"
    seed = scores["chosen_seed"]
    assert read_comment(out)["request"]["seed"] == seed
    assert main([*words, "--seed", str(seed), "-o", str(tmp_path / "b.mp4")]) == 0
    assert sha256(out) == sha256(tmp_path / "b.mp4")


def test_mistakes_in_both_flags_are_said_at_once(
    tiny_pipeline: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "generate",
        "--first",
        str(first),
        "--prompt",
        "x",
        "--base",
        str(tiny_pipeline),
        "-o",
        str(tmp_path / "a.mp4"),
    ]
    assert main([*words, "--best_of", "0", "--rank_by", "drif"]) == 2
    said = capsys.readouterr().err
    assert "expected a whole number from 1 to 64" in said
    assert "did you mean drift?" in said
    assert main([*words, "--rank_by", "drift"]) == 2
    assert "add --best_of N" in capsys.readouterr().err
