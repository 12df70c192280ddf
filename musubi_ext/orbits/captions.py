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
_DIRECTION = re.compile(r"(right|left)(\s*(?:to|->|-to-|→)\s*)(right|left)|(pans?\s+)(right|left)", re.IGNORECASE)


def vocabulary() -> list[str]:
    """Every word a rendered caption can hold, and the commonest of the real ones; sorted, so token ids are stable."""
    phrases = [*CIRCLES.values(), STILL, *PANS.values(), *VIEWPOINTS, *SHOTS, *COLOURS, *KINDS, *GROUNDS, _REAL]
    return sorted({word for phrase in phrases for word in phrase.split()})


def orbit_caption(viewpoint: str, shot: str, camera: str, colour: str, kind: str, ground: str) -> str:
    """One caption in the order of the real data set's tags, e.g. camera = CIRCLES[+1]."""
    return f"{viewpoint}, {shot}, {camera}, a {colour} {kind} on {ground}, static subject"


def direction(caption: str) -> int:
    """+1 for "right to left" (also `Right->Left`), −1 for "left to right", 0 when the caption names no circle."""
    match = re.search(r"(right|left)\s*(?:to|->|-to-|→)\s*(right|left)", caption, re.IGNORECASE)
    if not match or match[1].lower() == match[2].lower():
        return 0
    return +1 if match[1].lower() == "right" else -1


def mirror_caption(caption: str) -> str:
    """The caption of the horizontally mirrored clip: right and left of every camera move swapped, case kept."""

    def swap(word: str) -> str:
        other = "left" if word.lower() == "right" else "right"
        return other.capitalize() if word[0].isupper() else other

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return f"{swap(match[1])}{match[2]}{swap(match[3])}"
        return f"{match[4]}{swap(match[5])}"

    return _DIRECTION.sub(replace, caption)
