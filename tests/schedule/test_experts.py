"""Experts, boundaries and the hand-over step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musubi_ext.errors import UserError
from musubi_ext.schedule.experts import (
    TASKS,
    Expert,
    find_task,
    hand_over_step,
    parse_boundary,
    resolve_boundary,
    timestep_range,
)


@pytest.mark.parametrize(
    ("steps", "shift", "boundary", "expected"),
    [(4, 8, 0.9, 2), (8, 8, 0.9, 4), (20, 8, 0.9, 10), (40, 8, 0.9, 19), (40, 5, 0.9, 15)],  # FIELD 2.1
)
def test_hand_over_of_the_recipe(steps: int, shift: float, boundary: float, expected: int) -> None:
    assert hand_over_step(steps, shift, boundary) == expected


def test_a_sigma_on_the_boundary_belongs_to_the_high_expert() -> None:
    assert hand_over_step(10, 1.0, 0.9) == 2  # sigmas 1, 0.9, 0.8
    assert hand_over_step(8, 1.0, 0.875) == 2
    assert hand_over_step(10, 1.0, 0.7) == 4  # 1 − 3/10 is not 0.7 in floats


def test_low_expert_may_never_run() -> None:
    assert hand_over_step(2, 100.0, 0.9) == 2
    with pytest.raises(UserError, match="steps 0"):
        hand_over_step(0, 5.0, 0.9)


@given(st.integers(1, 60), st.floats(0.1, 20), st.floats(0.01, 0.99))
def test_hand_over_splits_the_schedule(steps: int, shift: float, boundary: float) -> None:
    index = hand_over_step(steps, shift, boundary)

    def sigma(i: int) -> float:
        t = 1 - i / steps
        return shift * t / (1 + (shift - 1) * t)

    assert all(sigma(i) >= boundary - 1e-12 for i in range(index))
    assert all(sigma(i) < boundary + 1e-12 for i in range(index, steps))


def test_tasks_and_ranges() -> None:
    assert {name: task.boundary for name, task in TASKS.items()} == {
        "i2v-A14B": 0.9,
        "t2v-A14B": 0.875,
        "pocket-i2v": 0.9,
    }
    assert timestep_range(Expert.HIGH, 0.9) == (0.9, 1.0)
    assert timestep_range(Expert.LOW, 0.9) == (0.0, 0.9)
    assert [(e.suffix, e.component) for e in Expert] == [("h", "transformer"), ("l", "transformer_2")]
    with pytest.raises(UserError, match=r"i2v-A14B, t2v-A14B, pocket-i2v"):
        find_task("i2v-14B")


@pytest.mark.parametrize("value", [0.875, "0.875", 875, "875", 875.0])
def test_boundary_in_both_units(value: float | str) -> None:
    assert parse_boundary(value) == 0.875


@pytest.mark.parametrize("value", [0, 1, 1000, -0.9, 9000, "nine", "", "nan", "inf", True, None])
def test_boundary_that_is_none(value: float) -> None:
    with pytest.raises(UserError, match="--timestep_boundary"):
        parse_boundary(value)


def test_another_boundary_is_asked_for_twice() -> None:
    task = TASKS["i2v-A14B"]
    assert resolve_boundary(task, None) == resolve_boundary(task, 900) == 0.9
    assert resolve_boundary(task, 875, "0.875") == 0.875
    with pytest.raises(UserError, match=r"i2v-A14B hands over at 0.9 .*--confirm_boundary 0.875"):
        resolve_boundary(task, 0.875)
    with pytest.raises(UserError, match=r"--confirm_boundary 0.8: expected 0.875"):
        resolve_boundary(task, 0.875, 0.8)
