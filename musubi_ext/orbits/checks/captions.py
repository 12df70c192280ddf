"""What is wrong with a caption: missing, empty, of two minds, or against the motion that was measured.

"Right to left" has two meanings. To one data set it is the camera's own way, to another the way in which the near side
of the subject passes through the picture, which is the opposite. Which of them a data set means is learned from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from musubi_ext.orbits.captions import LEFT_TO_RIGHT, RIGHT_TO_LEFT, direction, directions
from musubi_ext.orbits.checks.clip import Measured
from musubi_ext.orbits.checks.sources import Listed
from musubi_ext.orbits.checks.thresholds import AUTO, CAMERA, PICTURE, Thresholds

NAMES = {+1: RIGHT_TO_LEFT, -1: LEFT_TO_RIGHT}
SIGNS = {CAMERA: +1, PICTURE: -1}  # what a caption says, over what is measured
MEANINGS = {CAMERA: "the camera's own way", PICTURE: "the way the subject's near side passes through the picture"}
ENOUGH, SHARE = 5, 0.8  # clips to learn a convention from, and how many of them must follow it
Pair = tuple[int, int]  # direction that the caption says, direction measured: +1 or −1 each


@dataclass(frozen=True)
class Convention:
    """What a data set's captions mean by a direction; `name` is "camera", "picture" or, where `unavailable`, ""."""

    dataset: int  # index of its [[datasets]] table
    name: str
    pairs: Counter[Pair]  # of the clips whose caption and motion both have a direction
    learned: bool = True  # False: given by caption_direction
    unavailable: str = ""

    @property
    def clips(self) -> int:
        """How many clips have a direction in caption and motion."""
        return self.pairs.total()

    @property
    def follow(self) -> int:
        """How many of them follow the convention; 0 when there is none."""
        return sum(count for pair, count in self.pairs.items() if self.follows(pair))

    def follows(self, pair: Pair) -> bool:
        """Whether a clip's caption and motion agree under this convention."""
        return bool(self.name) and pair[0] == SIGNS[self.name] * pair[1]

    def sentence(self) -> str:
        """For people: the convention and how many clips follow it, or why there is none."""
        if not self.name:
            return f"unavailable: {self.unavailable}"
        how = "" if self.learned else ", as caption_direction says"
        return f'"{self.name}", {MEANINGS[self.name]}{how}: {self.follow} of {self.clips} clips follow it'


def find_conventions(
    datasets: int, limits: Thresholds, clips: Iterable[tuple[Listed, Measured]]
) -> tuple[Convention, ...]:
    """The convention of each of `datasets` tables, learned from its clips or as `limits.caption_direction` gives it."""
    pairs: list[Counter[Pair]] = [Counter() for _ in range(datasets)]
    for listed, measured in clips:
        if pair := direction_pair(listed, measured, limits):
            pairs[listed.dataset][pair] += 1
    return tuple(_convention(index, found, limits) for index, found in enumerate(pairs))


def direction_pair(listed: Listed, measured: Measured, limits: Thresholds) -> Pair | None:
    """What a clip's caption says and what its pixels show; None unless both are one direction, measured with
    `min_confidence`."""
    said = direction(listed.caption)
    confident = (measured.values.get("confidence") or 0.0) >= (limits.min_confidence or 0.0)
    return (said, measured.direction) if said and measured.direction and confident else None


def _convention(dataset: int, pairs: Counter[Pair], limits: Thresholds) -> Convention:
    setting = limits.caption_direction
    if setting is None:
        return Convention(dataset, "", pairs, unavailable="caption_direction = false")
    if setting != AUTO:
        return Convention(dataset, setting, pairs, learned=False)
    clips, same = pairs.total(), sum(count for (said, seen), count in pairs.items() if said == seen)
    if clips < ENOUGH:
        return Convention(dataset, "", pairs, unavailable=_too_few(clips, limits))
    for name, follow in ((CAMERA, same), (PICTURE, clips - same)):
        if follow >= SHARE * clips:
            return Convention(dataset, name, pairs)
    reason = f"{same} of {clips} clips name {MEANINGS[CAMERA]}, {clips - same} {MEANINGS[PICTURE]}"
    return Convention(dataset, "", pairs, unavailable=f"{reason}; {SHARE:.0%} have to agree ({_ADVICE})")


_ADVICE = f'or set caption_direction = "{CAMERA}" or "{PICTURE}"'


def _too_few(clips: int, limits: Thresholds) -> str:
    sure = f" with confidence {limits.min_confidence:g}" if limits.min_confidence else ""
    found = f"{clips or 'no'} clip{'' if clips == 1 else 's'}"
    return f"{found} with a direction both in the caption and measured{sure}, {ENOUGH} are needed ({_ADVICE})"


def caption_fault(listed: Listed, measured: Measured, limits: Thresholds, conventions: Sequence[Convention]) -> str:
    """The first fault of a clip's caption in words, "" when there is none."""
    if listed.caption_problem:
        return listed.caption_problem if limits.require_caption else ""
    if len(directions(listed.caption)) > 1:
        return f'the caption names both directions: "{listed.caption}"'
    convention, pair = conventions[listed.dataset], direction_pair(listed, measured, limits)
    if pair is None or not convention.name or convention.follows(pair):
        return ""
    confidence = f"(confidence {measured.values.get('confidence') or 0.0:.2f})"
    return f"the caption says {NAMES[pair[0]]}, but {_against(pair, convention)} {confidence}"


def _against(pair: Pair, convention: Convention) -> str:
    """What the camera does instead, told by the other clips where the convention was learned from them."""
    said, seen = pair
    if not convention.learned:
        meaning = "" if convention.name == CAMERA else f", so that {MEANINGS[PICTURE]} is {NAMES[-seen]}"
        return f'the camera circles {NAMES[seen]}{meaning} (caption_direction = "{convention.name}")'
    alike, opposite = convention.pairs[said, -seen], convention.pairs[-said, seen]
    if alike >= opposite:
        share = f"{alike} of {alike + convention.pairs[pair]}"
        return f"the camera circles the other way than in the {share} clips that say so"
    share = f"{opposite} of {opposite + convention.pairs[-said, -seen]}"
    return f"the camera circles the same way as in the {share} clips that say {NAMES[-said]}"
