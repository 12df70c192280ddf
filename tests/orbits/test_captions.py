"""Directions in captions, and captions of mirrored clips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musubi_ext.orbits.captions import CIRCLES, direction, mirror_caption, orbit_caption


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("eye level, full shot, camera circles right to left, a blue sedan, static display", +1),
        ("Circle Left->Right, side view", -1),
        ("camera stays still, a red box", 0),
        ("camera circles right to right", 0),
        ("a car parked on the left, camera circles left-to-right", -1),
    ],
)
def test_direction_is_read_from_the_trajectory_words(caption: str, expected: int) -> None:
    assert direction(caption) == expected


@given(st.sampled_from([*CIRCLES.values(), "Circle Right->Left", "camera pans left"]))
def test_mirroring_twice_is_the_identity_and_once_turns_the_direction(camera: str) -> None:
    caption = orbit_caption("eye level", "full shot", camera, "red", "car", "grass")
    mirrored = mirror_caption(caption)
    assert mirror_caption(mirrored) == caption
    assert mirrored != caption
    assert direction(mirrored) == -direction(caption)


def test_a_side_that_is_not_a_move_stays() -> None:
    assert mirror_caption("the car on the left, Circle Right->Left") == "the car on the left, Circle Left->Right"
