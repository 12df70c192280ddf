"""Directions in captions, and captions of mirrored clips."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musubi_ext.orbits.captions import (
    CIRCLES,
    direction,
    directions,
    mirror_caption,
    orbit_caption,
    vocabulary,
)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("eye level, full shot, camera circles right to left, a blue sedan, static display", +1),
        ("Circle Left->Right, side view", -1),
        ("Circle Right -> Left", +1),
        ("the camera moves from the left to the right", -1),
        ("a car parked on the left, camera circles left-to-right", -1),
        ("camera orbits left", +1),
        ("a cat, smoothly orbits to the left", +1),
        ("The camera is slowly circling to its right around a car", -1),
        ("Circle left, eye level", +1),
        ("camera circles leftwards", +1),
        ("camera rotates steadily RIGHT", -1),
        ("the camera moves to the right away from the house", -1),
        ("camera stays still, a red box", 0),
        ("camera pans left", 0),
        ("camera circles right to right", 0),
        ("camera orbits left and right", 0),
        ("camera orbits to the left, then to the right", 0),
        ("camera orbits left, camera circles left to right", 0),
        ("camera moves right behind the runner", 0),
        ("camera moves left now", 0),  # its mirror image reads "right now"
        ("a dog that moves left", 0),
        ("a turntable rotates left", 0),
        ("camera rotates clockwise", 0),
        ("the house on the right to the left of the road", 0),
        ("bright to left", 0),
        ("the car on the left", 0),
        ("", 0),
    ],
)
def test_direction_is_read_from_the_trajectory_words(caption: str, expected: int) -> None:
    assert direction(caption) == expected


def test_a_caption_of_two_minds_names_both() -> None:
    assert directions("camera circles right to left, then left to right") == {+1, -1}
    assert directions("camera orbits left and then right") == {+1, -1}


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("camera orbits left", "camera orbits right"),
        ("smoothly orbits to the left", "smoothly orbits to the right"),
        ("circles leftward", "circles rightward"),
        ("moves rightwards", "moves leftwards"),
        ("a dog facing left", "a dog facing right"),
        ("a tree on the right side", "a tree on the left side"),
        ("a left-hand drive car, righthand lane", "a right-hand drive car, lefthand lane"),
        ("the leftmost house, RIGHTMOST", "the rightmost house, LEFTMOST"),
        ("a lamp top-left, bottom right", "a lamp top-right, bottom left"),
        ("Left, LEFT and left", "Right, RIGHT and right"),
        ("the car on the left, Circle Right->Left", "the car on the right, Circle Left->Right"),
        ("on the right in front of a wall", "on the left in front of a wall"),
        ("a man on the left behind a fence", "a man on the right behind a fence"),
        ("camera pans left over the city", "camera pans right over the city"),
        ("camera orbits left behind the car", "camera orbits right behind the car"),
        ("moves to the right away from it", "moves to the left away from it"),
        ("left_to_right", "right_to_left"),
        ("orbits clockwise", "orbits counterclockwise"),
        ("Counterclockwise orbit, COUNTER-CLOCKWISE", "Clockwise orbit, CLOCKWISE"),
        ("anticlockwise, anti-clockwise, counter clockwise", "clockwise, clockwise, clockwise"),
        ("orbits CCW, then cw", "orbits CW, then ccw"),
        ("camera moves left now", "camera moves right now"),
    ],
)
def test_a_mirrored_picture_swaps_every_side(caption: str, mirrored: str) -> None:
    assert mirror_caption(caption) == mirrored


STAY = [
    *("a right angle", "right-angled roofs", "a right triangle", "right now", "goes right away", "all right"),
    *("food left over", "a leftover", "copyright", "bright", "upright", "playwright", "rights", "cleft"),
    *("right in front of the house", "right behind the car", "a bag left behind", "right beside the water"),
    *("right next to it", "right over the door", "right in the middle", "Right In Front", "LEFT BEHIND"),
]


@pytest.mark.parametrize("idiom", STAY)
def test_words_that_are_no_side_stay(idiom: str) -> None:
    caption = f"a car, {idiom}, static subject"
    assert mirror_caption(caption) == caption
    assert direction(caption) == 0


# What mirror_caption promises to give back: one spelling of each rotation, one case a word, no "left" before "angle",
# "now" or "away".
CAMERA = [
    *CIRCLES.values(),
    *("Circle Right->Left", "Circle Left->Right", "camera pans left", "camera orbits left", "the camera orbits right"),
    *(
        "smoothly orbits to the left",
        "circles leftward",
        "camera moves rightwards",
        "camera rotates slowly to the left",
    ),
    *("orbits clockwise", "camera circles counterclockwise", "Orbit CCW", "CLOCKWISE", "camera stays still"),
]
PLACES = [
    "facing left",
    "on the right side",
    "a left-hand drive",
    "leftmost",
    "top-left",
    "TO THE RIGHT",
    "Left",
    *STAY,
]
captions = st.lists(st.sampled_from([*CAMERA, *PLACES, "a red car", "7/8", "日本"]), min_size=1, max_size=6).flatmap(
    lambda parts: st.sampled_from([", ".join(parts), "; ".join(parts), ". ".join(parts)])
)


@settings(deadline=None)
@given(captions)
def test_mirroring_twice_gives_the_caption_back(caption: str) -> None:
    assert mirror_caption(mirror_caption(caption)) == caption


@settings(deadline=None)
@given(st.sampled_from(CAMERA[:-1]))
def test_the_rendered_and_the_real_tags_always_change(camera: str) -> None:
    caption = orbit_caption("eye level", "full shot", camera, "red", "car", "grass")
    mirrored = mirror_caption(caption)
    assert mirrored != caption
    assert mirror_caption(mirrored) == caption


# Any order of the words that decide, idioms torn apart and cases mixed: whatever stands there, the direction turns.
WORDS = (
    "left right Left RIGHT LeFt to the its camera orbits circles moving rotates pans slowly and then over behind away "
    "now from angle all in front beside leftwards right-hand -> - , . clockwise counter-clockwise"
)
soup = st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join)


@settings(deadline=None)
@given(st.one_of(captions, soup, soup.map(lambda text: text.replace(" ", "")), st.text()))
def test_the_mirrored_caption_names_the_other_direction(caption: str) -> None:
    assert direction(mirror_caption(caption)) == -direction(caption)
    assert directions(mirror_caption(caption)) == {-way for way in directions(caption)}


DIRECTION_WORDS = re.compile(r"left|right|((counter|anti)[- ]?)?clockwise|c?cw", re.IGNORECASE)


@settings(deadline=None)
@given(st.one_of(captions, soup, st.text()))
def test_nothing_but_direction_words_is_touched(caption: str) -> None:
    assert DIRECTION_WORDS.sub("*", mirror_caption(caption)) == DIRECTION_WORDS.sub("*", caption)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_a_caption_without_direction_words_stays(text: str) -> None:
    plain = DIRECTION_WORDS.sub("", text)
    if not DIRECTION_WORDS.search(plain):
        assert mirror_caption(plain) == plain


def test_the_words_of_the_shipped_pocket_keep_their_numbers() -> None:
    """Its text encoder was trained on this list in this order."""
    words = "\n".join(vocabulary())
    assert (len(vocabulary()), hashlib.sha256(words.encode()).hexdigest()[:16]) == (77, "880a74892fc7ddff")
