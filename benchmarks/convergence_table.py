"""What validation histories of two recipes say: steps to the other's final loss, losses at equal steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tables import interval, table

from musubi_ext.evaluation.statistics import median_interval, paired_difference

GOAL = 0.6  # of the recipe's steps
QUARTERS = (0.25, 0.5, 0.75, 1.0)  # of the training, where losses are compared at equal steps
History = list[tuple[int, float]]  # (updates done, val/loss)


class Pair(NamedTuple):
    """Two trainings of one seed."""

    own: History  # over the expert's own range
    whole: History  # over all timesteps


def steps_to(target: float, history: History) -> float | None:
    """Updates after which the validation loss first is at `target`, between two validations on the line through them.

    None where it never gets there.
    """
    before: tuple[int, float] | None = None
    for step, loss in history:
        if loss <= target:
            if before is None:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - target) / (before[1] - loss)
        before = step, loss
    return None


def compare(name: str, pairs: Sequence[Pair], steps: int) -> dict[str, Any]:
    """One row: ratios of steps per seed, the same of the recipe against itself, and losses at equal steps."""
    reached = [steps_to(whole[-1][1], own) for own, whole in pairs]
    itself = [steps_to(whole[-1][1], whole) for _, whole in pairs]
    return {
        "name": name,
        "base": median_interval([own[0][1] for own, _ in pairs]).as_dict(),
        "reached": sum(step is not None for step in reached),
        "ratio": median_interval([_share(step, steps) for step in reached]).as_dict(),
        "ratios": [_share(step, steps) for step in reached],
        "itself": median_interval([_share(step, steps) for step in itself]).as_dict(),
        "at": {str(part): _difference(pairs, part) for part in QUARTERS},
    }


def _share(step: float | None, steps: int) -> float:
    """Of the recipe's steps; 1 stands for "not within as many", which a median over seeds bears."""
    return 1.0 if step is None else min(step / steps, 1.0)


def _difference(pairs: Sequence[Pair], part: float) -> dict[str, Any]:
    """Losses of both after a part of the training, and ours − theirs relative to theirs, paired over seeds."""
    place = round(part * (len(pairs[0][0]) - 1))
    own, whole = ([pair[side][place][1] for pair in pairs] for side in (0, 1))
    relative = [a / b - 1 for a, b in zip(own, whole, strict=True)]
    return {
        "step": pairs[0][0][place][0],
        "own": median_interval(own).as_dict(),
        "whole": median_interval(whole).as_dict(),
        "difference": paired_difference(whole, own).as_dict(),
        "relative": median_interval(relative).as_dict(),
    }


def verdict(row: Mapping[str, Any]) -> str:
    """What the interval supports. Where the recipe ends above the base, its final loss is reached by doing nothing."""
    ratio = row["ratio"]
    if row["at"][str(1.0)]["whole"]["median"] >= row["base"]["median"]:
        return "void: theirs ends above the base"
    if ratio["high"] <= GOAL:
        return "met"
    return "missed" if ratio["low"] > GOAL else "not decided"


def markdown(document: Mapping[str, Any]) -> str:
    """Both tables, and how to read them."""
    given, rows = document["arguments"], document["rows"]
    first = [
        [
            row["name"],
            interval(row["ratio"], 2),
            ", ".join(f"{value:.2f}" for value in row["ratios"]),
            f"{row['reached']} of {len(given['seeds'])}",
            interval(row["itself"], 2),
            verdict(row),
        ]
        for row in rows
    ]
    second = [
        [
            row["name"],
            f"{row['base']['median']:.4f}",
            *(_losses(row["at"][str(part)]) for part in QUARTERS),
        ]
        for row in rows
    ]
    at = [f"step {rows[0]['at'][str(part)]['step']}" for part in QUARTERS]
    return "\n".join(
        [
            f"{given['steps']} updates of batch {given['batch']}, learning rate {given['learning_rate']:g}, rank 16, "
            f"shift {given['shift']:g}; {given['clips']} rendered orbits, {given['holdout']:.0%} of them held out; "
            f"validated every {given['every']} updates; seeds {given['seeds']}. {document['machine']}.",
            "",
            "Steps ours needs to reach the final in-range val/loss of Circle-Rotate's recipe, as a share of that "
            f"recipe's steps (goal ≤ {GOAL}). Medians over seeds [95% bootstrap interval]; 1.00 also stands for a seed "
            "that does not reach it. The interval of three seeds spans all three. Theirs ÷ theirs is where its own "
            "loss is at its final value for the first time: what noise alone gives.",
            "",
            table(["", "ours ÷ theirs", "each seed", "reached", "theirs ÷ theirs", "goal"], first),
            "",
            "In-range val/loss at equal steps: ours / theirs (ours relative to theirs [interval, paired over seeds]).",
            "",
            table(["", "before training", *at], second),
        ]
    )


def _losses(at: Mapping[str, Any]) -> str:
    relative = {name: 100 * value for name, value in at["relative"].items()}
    return f"{at['own']['median']:.4f} / {at['whole']['median']:.4f} ({interval(relative, 1, '%')})"
