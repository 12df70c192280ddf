"""Does a video move at all? A frozen one wins drift, flicker and fidelity, so nothing counts below a floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from musubi_ext.evaluation.result import ClipResults, Result

RATIO = "motion_ratio"  # of the truth's motion: needs one
MAGNITUDE = "motion_magnitude"  # pixels a frame: any video has it
MEASURES = (RATIO, MAGNITUDE, "dynamic_degree")
FROZEN_RATIO = 0.1  # of the reference's motion
FROZEN_SPEED = 2e-4  # of the diagonal per frame: 0.018 px at 64×64, 0.29 px at 1280×720; sample orbits have 1e-3 and up

Scenes = Mapping[str, ClipResults]


@dataclass(frozen=True)
class Motion:
    """Motion of each scene as a share: of the true orbit's, or of the base's video of the same scene.

    `shares` holds the scenes where it could be measured, `lacking` the reason for each of the others.
    """

    metric: str
    of: str
    shares: Mapping[str, float]
    lacking: Mapping[str, str]

    @property
    def frozen(self) -> list[str]:
        """The scenes that stand still."""
        return [scene for scene, share in self.shares.items() if share < FROZEN_RATIO]


def relative_motion(base: Scenes, pair: Scenes, metric: str = "") -> Motion:
    """The pair's motion by scene; without a name by `motion_ratio` where any scene has it, else `motion_magnitude`."""
    if not metric:
        known = any(RATIO in of and of[RATIO].value is not None for of in pair.values())
        metric = RATIO if known else MAGNITUDE
    shares: dict[str, float] = {}
    lacking: dict[str, str] = {}
    for scene, of in pair.items():
        found = _share(metric, base.get(scene, {}).get(metric), of.get(metric))
        if isinstance(found, str):
            lacking[scene] = found
        else:
            shares[scene] = found
    return Motion(metric, "the true orbit" if metric == RATIO else "the base's video", shares, lacking)


def still(results: ClipResults) -> str | None:
    """Why a clip counts as standing still by its own results, None if it moves or nothing says."""
    ratio, speed = results.get(RATIO), results.get(MAGNITUDE)
    if ratio is not None and ratio.value is not None and ratio.value < FROZEN_RATIO:
        return f"stands still: {ratio.value:.3g} of the reference's motion, below {FROZEN_RATIO:g}"
    if speed is not None and speed.value is not None and speed.value < (floor := speed_floor(speed.resolution)):
        return f"stands still: {speed.value:.3g} px a frame, below {floor:.3g}"
    return None


def speed_floor(resolution: str) -> float:
    """Pixels a frame below which a video of "WxH" counts as frozen."""
    width, _, height = resolution.partition("x")
    return FROZEN_SPEED * float((int(width) ** 2 + int(height) ** 2) ** 0.5)


def _share(metric: str, base: Result | None, pair: Result | None) -> float | str:
    if pair is None:
        return "it was not measured"
    if pair.value is None:
        return str(pair.unavailable)
    if metric == RATIO:
        return pair.value
    if base is None:
        return "it was not measured for the base"
    if base.value is None:
        return str(base.unavailable)
    floor = speed_floor(base.resolution) if metric == MAGNITUDE else 0.0
    if base.value <= floor:  # a base that stands still asks for nothing but to move
        return float(pair.value > floor)
    return pair.value / base.value
