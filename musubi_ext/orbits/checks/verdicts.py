"""What makes a clip fit to train on: each check compares one measured number with one limit and says why in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from musubi_ext.errors import shown
from musubi_ext.orbits.checks.captions import Convention, caption_fault, find_conventions
from musubi_ext.orbits.checks.clip import Measured
from musubi_ext.orbits.checks.duplicates import Nearest, nearest_before
from musubi_ext.orbits.checks.sources import Listed
from musubi_ext.orbits.checks.thresholds import Limit, Thresholds
from musubi_ext.orbits.clips import WAN_FPS
from musubi_ext.orbits.config import DatasetConfig, VideoDataset

FIT, UNFIT, UNREADABLE = "fit", "unfit", "unreadable"
STATES = (FIT, UNFIT, UNREADABLE)
Sentence = Callable[[Measured, VideoDataset, float, float], str]  # of clip, data set, value and limit


@dataclass(frozen=True)
class Check:
    """One number of a clip: `limit` names its threshold, whose first word says which side of it is unfit."""

    name: str
    title: str
    unit: str
    limit: str
    sentence: Sentence

    @property
    def unit_suffix(self) -> str:
        """The unit after a number, where it has one that is printed."""
        return self.unit if self.unit == "°" else ""

    def fails(self, value: float, limit: float) -> bool:
        """Whether `value` lies on the wrong side of `limit`."""
        return value < limit if self.limit.startswith("min_") else value > limit


def _decoded(clip: Measured, dataset: VideoDataset, value: float, limit: float) -> str:
    return f"only {value:.0%} of its frames decode: the file is cut off or damaged (export it again)"


def _frames(clip: Measured, dataset: VideoDataset, value: float, limit: float) -> str:
    at = " at 16 a second" if dataset.source_fps else ""
    return f"{value:.0f} frames{at}, {limit:.0f} are needed (use a longer clip or fewer target_frames)"


def _fps(clip: Measured, dataset: VideoDataset, value: float, limit: float) -> str:
    read_at = dataset.source_fps or WAN_FPS
    found = f"{clip.fps:g} frames a second, read as {read_at:g}: motion would be {read_at / clip.fps:.2f} times as fast"
    return f"{found} (set source_fps = {float(clip.fps)} or convert the clip)"


def _enlarged(clip: Measured, dataset: VideoDataset, value: float, limit: float) -> str:
    size = f"{clip.width}x{clip.height} would be enlarged {value:.2f} times to {clip.size[0]}x{clip.size[1]}"
    return f"{size} (use a larger source, a smaller resolution, or bucket_no_upscale)"


def _frozen(clip: Measured, dataset: VideoDataset, value: float, limit: float) -> str:
    doubled = ": a slower clip was stretched by doubling frames" if 0.2 < value < 0.8 else ""
    return f"{value:.0%} of its frames repeat the one before{doubled}"


def _plain(text: str) -> Sentence:
    """A sentence in which {value} and {limit} stand for the numbers."""
    return lambda clip, dataset, value, limit: text.format(value=value, limit=limit)


CHECKS = (
    Check("decoded", "decoded", "share", "min_decoded", _decoded),
    Check("frames", "frames", "", "min_frames", _frames),
    Check("fps_error", "fps error", "share", "max_fps_error", _fps),
    Check("enlargement", "enlargement", "times", "max_enlargement", _enlarged),
    Check(
        "sharpness",
        "sharpness",
        "",
        "min_sharpness",
        _plain("sharpness {value:.0f}, expected {limit:g}: blurred or flat"),
    ),
    Check("cut", "cut", "times", "max_cut", _plain("a cut: one step is {value:.1f} times as large as those around it")),
    Check("bars", "black bars", "share", "max_bars", _plain("black bars cover {value:.1%} of the picture (crop them)")),
    Check("frozen", "frozen", "share", "max_frozen", _frozen),
    Check("copy_distance", "copy distance", "share", "min_copy_distance", _plain("")),  # worded by `_copy`
    Check(
        "swept_angle",
        "swept angle",
        "°",
        "min_swept_angle",
        _plain("the camera sweeps {value:.1f}°, {limit:g}° or more are expected"),
    ),
    Check(
        "steadiness",
        "unsteadiness",
        "",
        "max_unsteadiness",
        _plain("turns unsteadily: its angular speed varies by {value:.0%}"),
    ),
    Check(
        "centring",
        "centring",
        "widths",
        "max_centring",
        _plain("the subject is {value:.2f} widths off the middle, at most {limit:g} is expected"),
    ),
    Check(
        "centring_spread",
        "drift",
        "widths",
        "max_centring_spread",
        _plain("the subject wanders by {value:.2f} widths, at most {limit:g} is expected"),
    ),
    Check(
        "loop_closure",
        "loop closure",
        "",
        "min_loop_closure",
        _plain("the loop stays open: first and last frame correlate by {value:.2f}"),
    ),
)


@dataclass(frozen=True)
class Reason:
    """Why a clip is not fit: the check's name and a sentence."""

    check: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """One clip's outcome; `values` holds every number measured, None where `unavailable` says why."""

    listed: Listed
    sha256: str
    measured: Measured
    values: dict[str, float | None]
    reasons: tuple[Reason, ...]

    @property
    def state(self) -> str:
        """fit, unfit or unreadable."""
        if self.measured.unreadable:
            return UNREADABLE
        return UNFIT if self.reasons else FIT


def judge(
    config: DatasetConfig,
    limits: Thresholds,
    clips: Sequence[Listed],
    digests: Sequence[str],
    measured: Sequence[Measured],
) -> tuple[Verdict, ...]:
    """The verdict on every clip, in order. `digests` are SHA-256, "" for a file that could not be read."""
    copies = nearest_before(digests, [clip.look for clip in measured])
    conventions = find_conventions(len(config.datasets), limits, zip(clips, measured, strict=True))
    verdicts = []
    for listed, digest, clip, nearest in zip(clips, digests, measured, copies, strict=True):
        values = dict(clip.values)
        if not clip.unreadable:
            values["copy_distance"] = nearest.distance if nearest else None
        reasons = _reasons(config.datasets[listed.dataset], limits, listed, clip, values)
        if not clip.unreadable and (fault := caption_fault(listed, clip, limits, conventions)):
            reasons.append(Reason("caption", shown(fault)))
        if nearest and _fails("copy_distance", nearest.distance, limits):
            reasons.append(Reason("copy_distance", _copy(nearest, shown(clips[nearest.index].path))))
        verdicts.append(Verdict(listed, digest, clip, values, tuple(reasons)))
    return tuple(verdicts)


def conventions_of(config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict]) -> tuple[Convention, ...]:
    """What the captions of each `[[datasets]]` table mean by a direction: what `judge` held them against."""
    pairs = ((verdict.listed, verdict.measured) for verdict in verdicts)
    return find_conventions(len(config.datasets), limits, pairs)


def limit_of(check: Check, limits: Thresholds, dataset: VideoDataset) -> Limit:
    """The limit that holds for a clip of `dataset`; of the number of frames, also what its windows need."""
    limit: Limit = getattr(limits, check.limit)
    if check.name != "frames" or dataset.frame_extraction == "full":
        return limit
    return max(limit or 0.0, float(min(dataset.target_frames)))  # a shorter clip gives no window at all


def _reasons(
    dataset: VideoDataset, limits: Thresholds, listed: Listed, clip: Measured, values: dict[str, float | None]
) -> list[Reason]:
    if clip.unreadable:
        return [Reason("decoded", shown(clip.unreadable))]
    reasons = []
    for check in CHECKS:
        value, limit = values.get(check.name), limit_of(check, limits, dataset)
        if check.name != "copy_distance" and value is not None and limit is not None and check.fails(value, limit):
            reasons.append(Reason(check.name, check.sentence(clip, dataset, value, limit)))
    if limits.require_orbit and "swept_angle" in clip.unavailable:
        reasons.append(Reason("swept_angle", f"its orbit cannot be measured: {clip.unavailable['swept_angle']}"))
    return reasons


def _fails(name: str, value: float, limits: Thresholds) -> bool:
    check = next(check for check in CHECKS if check.name == name)
    limit: Limit = getattr(limits, check.limit)
    return limit is not None and check.fails(value, limit)


def _copy(nearest: Nearest, other: str) -> str:
    if nearest.identical:
        return f"the same file as {other} (remove one)"
    return f"looks like {other}: {nearest.distance:.1%} of the picture's hash differs (remove one)"
