"""The trajectory vocabulary of the Circle-Rotate data: viewpoint, shot scale, camera move, subject, stillness.

"eye level, full shot, camera circles right to left, a blue sedan parked on a seaside road, static display"
"""

from __future__ import annotations

import re

RIGHT_TO_LEFT, LEFT_TO_RIGHT = "right to left", "left to right"
CIRCLES = {+1: f"camera circles {RIGHT_TO_LEFT}", -1: f"camera circles {LEFT_TO_RIGHT}"}
STILL = "camera stays still"
PANS = {+1: "camera pans left", -1: "camera pans right"}
VIEWPOINTS = ("eye level", "high angle")
SHOTS = ("full shot", "medium shot", "long shot")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
KINDS = ("box", "tower", "car", "van", "truck", "bus", "steps")
GROUNDS = ("grass", "sand", "stone", "snow", "water")
# words of the real captions that the pocket should tell from noise
_REAL = (
    "a an the of on in at with and front by beside parked sitting static subject display sedan suv cat kitten dog "
    "person road bridge floor buildings forest mountains seaside skyline dusk gray black white brown office pine low "
    "close up"
)
_TO = {"left": +1, "right": -1}  # where a circle leads, as its direction
_LETTER = r"[^\W\d_]"
_ENDING = rf"(?:wards?|most|hand(?:ed)?|side)?(?!{_LETTER})"  # leftward, rightmost, left-hand, but not leftover
_SIDE = re.compile(rf"(?<!{_LETTER})(left|right)(?={_ENDING})", re.IGNORECASE)
_ROTATION = re.compile(rf"(?<!{_LETTER})(?:((?:counter|anti)[- ]?)?clockwise|(c)?cw)(?!{_LETTER})", re.IGNORECASE)
_WORD_BEFORE = re.compile(rf"({_LETTER}+)[\s-]+\Z")
# Where "right" means exactly, or "left" that someone went away, unless the word before makes a side of it.
_NAMES_A_SIDE = re.compile(r"the|its|his|her|their|my|your|our|far|top|bottom|upper|lower|on")
_TURNING = re.compile(r"(?:pan|orbit|circl|rotat|turn|arc|swing)(?:e|es|s|n?ing|n?ed)?")
_MOVING = re.compile(_TURNING.pattern + r"|(?:mov|slid|glid|fac|driv)(?:es?|ing)|(?:look|point|head|walk)(?:s|ing)")
_ANGLE = re.compile(r"[\s-]+(?:angle[sd]?|triangles?)\b", re.IGNORECASE)
_NOW = re.compile(r"\s+(?:now\b|away\b(?!\s+from\b))", re.IGNORECASE)
_OVER = re.compile(r"[\s-]+over\b", re.IGNORECASE)
_NEAR = re.compile(r"[\s-]+(?:behind|beside|next\s+to|in\s+front|in\s+the\s+(?:middle|cent(?:er|re)))\b", re.IGNORECASE)
# "right to left", "Right->Left", "from the right to the left"
_ACROSS = re.compile(
    rf"(?<!{_LETTER})(?:(right|left)\s*(?:to|-+>|=>|-to-|→)\s*(right|left)"
    rf"|from\s+the\s+(right|left)\s+to\s+the\s+(right|left))(?!{_LETTER})",
    re.IGNORECASE,
)
# "camera slowly orbits to the left", "Circle left": of the camera, or of a tag that names nobody
_TOWARDS = re.compile(
    r"(?:^|[,;.:]|\bcamera)\s*(?:(?:is|then|and|\w+ly)\s+){0,3}(?:orbit|circl|rotat|mov)(?:e|es|s|ing)?"
    r"(?:\s+\w+ly){0,2}\s+(?:to\s+(?:the|its)\s+)?(left|right)(?:wards?)?\b"
    r"(?:(?:/|,?\s+(?:(?:and|or|then)\s+){1,2})(?:to\s+(?:the|its)\s+)?(left|right)(?:wards?)?\b(?!\s+side|-))?",
    re.IGNORECASE,
)


def vocabulary() -> list[str]:
    """Every word a rendered caption can hold, and the commonest of the real ones; sorted, so token ids are stable."""
    phrases = [*CIRCLES.values(), STILL, *PANS.values(), *VIEWPOINTS, *SHOTS, *COLOURS, *KINDS, *GROUNDS, _REAL]
    return sorted({word for phrase in phrases for word in phrase.split()})


def orbit_caption(viewpoint: str, shot: str, camera: str, colour: str, kind: str, ground: str) -> str:
    """One caption in the order of the real data set's tags, e.g. camera = CIRCLES[+1]."""
    return f"{viewpoint}, {shot}, {camera}, a {colour} {kind} on {ground}, static subject"


def directions(caption: str) -> frozenset[int]:
    """Every direction of a circle that the caption names: +1 "right to left", −1 "left to right".

    "camera orbits left" and "circles to the left" are +1: the camera's own way. A word that is an idiom, or whose
    mirror image is one ("camera moves left now"), names no direction, and neither does a pan.
    """
    caption = _SIDE.sub(lambda side: "-" * len(side[0]) if _either_idiom(side) else side[0], caption)
    found = set()
    for match in _ACROSS.finditer(caption):
        start, end = (side.lower() for side in match.groups() if side)
        found |= {_TO[end]} if start != end else set()
    for match in _TOWARDS.finditer(_ACROSS.sub("-", caption)):
        found |= {_TO[side.lower()] for side in match.groups() if side}
    return frozenset(found)


def direction(caption: str) -> int:
    """+1 for "right to left" (also `Right->Left`, "orbits to the left"), −1 for "left to right"; 0 when the caption
    names no circle, or both."""
    found = directions(caption)
    return next(iter(found)) if len(found) == 1 else 0


def mirror_caption(caption: str) -> str:
    """The caption of the horizontally mirrored clip: every left and right swapped, every rotation turned round.

    "left-hand", "top-left", "rightwards" and "leftmost" are swapped too; "right angle", "right now", "right away", "all
    right", "left over", "left behind", "right in front" and the like are no sides and stay. The case is kept.

    Mirroring twice gives the caption back, but for: spellings of "counterclockwise" other than this one and "ccw" (they
    come back as this one), words of mixed case ("LeFt"), and "left" before "angle", "now" or "away", whose mirror image
    is an idiom.
    """
    swapped = _SIDE.sub(lambda side: side[0] if _idiom(side, side[0].lower()) else _swapped(side[0]), caption)
    return _ROTATION.sub(_turned, swapped)


def _swapped(side: str) -> str:
    return _in_case_of(side, "left" if side.lower() == "right" else "right")


def _turned(rotation: re.Match[str]) -> str:
    short = rotation[0].lower().endswith("cw")
    backwards = bool(rotation[1] or rotation[2])
    names = ("ccw", "cw") if short else ("counterclockwise", "clockwise")
    return _in_case_of(rotation[0], names[backwards])


def _in_case_of(original: str, word: str) -> str:
    if original.isupper():
        return word.upper()
    return word.capitalize() if original[0].isupper() else word


def _either_idiom(side: re.Match[str]) -> bool:
    return _idiom(side, "left") or _idiom(side, "right")


def _idiom(side: re.Match[str], word: str) -> bool:
    """Whether `word`, standing where `side` was found, is no side of the picture: "right now", "left behind"."""
    text, end = side.string, side.end()
    found = _WORD_BEFORE.search(text, max(0, side.start() - 32), side.start())
    before = found[1].lower() if found else ""
    if before == "all" or (word == "right" and _ANGLE.match(text, end)):
        return True
    if _NAMES_A_SIDE.fullmatch(before):
        return False
    if word == "right" and _NOW.match(text, end):
        return True
    if _OVER.match(text, end):
        return not _MOVING.fullmatch(before)
    return bool(_NEAR.match(text, end)) and not _TURNING.fullmatch(before)
