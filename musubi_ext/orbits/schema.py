"""Every key a dataset TOML may hold, what its value must be, and the sentence for each way it can be wrong.

The keys and their types are musubi-tuner's (v0.3.4, `dataset/config_utils.py`, `ConfigSanitizer`); `[orbit]` is ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from musubi_ext.errors import Problems

STEP = 16  # a bucket's sides: 8 of the VAE times 2 of the transformer's patch
EXTRACTIONS = ("head", "chunk", "slide", "uniform", "full")
CONDITIONS = ("first", "first_last", "mixed")

Check = Callable[[Any], "str | None"]  # what was expected of the value, or None when it is right


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def text(value: Any) -> str | None:
    """A non-empty string."""
    return None if isinstance(value, str) and value else "a non-empty string"


def boolean(value: Any) -> str | None:
    """true or false."""
    return None if isinstance(value, bool) else "true or false"


def at_least_one(value: Any) -> str | None:
    """An integer ≥ 1."""
    return None if _is_int(value) and value >= 1 else "an integer of 1 or more"


def frames_per_second(value: Any) -> str | None:
    """A positive decimal: musubi-tuner refuses 30 and accepts 30.0, and one file must do for both."""
    if _is_int(value) and value > 0:
        return f"a decimal number, {value}.0 (musubi-tuner refuses an integer here)"
    return None if isinstance(value, float) and 0 < value <= 1000 else "frames per second as a decimal, e.g. 30.0"


def resolution(value: Any) -> str | None:
    """[width, height], or one integer for both."""
    sides = value if isinstance(value, list) else [value, value]
    right = len(sides) == 2 and all(_is_int(side) and STEP <= side <= 8192 for side in sides)
    return None if right else f"[width, height] in pixels, each {STEP} to 8192, or one number for both"


def frame_counts(value: Any) -> str | None:
    """A list of counts 4n+1: the VAE keeps the first frame and packs every four after it."""
    if not isinstance(value, list) or not value or not all(_is_int(count) and count >= 1 for count in value):
        return "a list of frame counts, e.g. [17]"
    wrong = [count for count in value if count % 4 != 1]
    if not wrong:
        return None
    below = {count: (count - 1) // 4 * 4 + 1 for count in wrong}
    near = ", ".join(f"for {count}: {low} or {low + 4}" for count, low in below.items())
    return f"frame counts of the form 4n+1 ({near})"


def one_of(*names: str) -> Check:
    """A check that the value is one of `names`."""
    return lambda value: None if value in names else "one of " + ", ".join(names)


def holdout_share(value: Any) -> str | None:
    """The share of clips kept from training, 0 to 0.5."""
    right = (isinstance(value, float) or _is_int(value)) and 0 <= value <= 0.5
    return None if right else "a share of the clips, 0 to 0.5"


ASCENDABLE: dict[str, Check] = {  # may stand in [general] and be overridden in [[datasets]]
    "caption_extension": text,
    "batch_size": at_least_one,
    "num_repeats": at_least_one,
    "resolution": resolution,
    "enable_bucket": boolean,
    "bucket_no_upscale": boolean,
}
VIDEO: dict[str, Check] = {
    **ASCENDABLE,
    "video_directory": text,
    "video_jsonl_file": text,
    "control_directory": text,
    "target_frames": frame_counts,
    "frame_extraction": one_of(*EXTRACTIONS),
    "frame_stride": at_least_one,
    "frame_sample": at_least_one,
    "max_frames": at_least_one,
    "cache_directory": text,
    "source_fps": frames_per_second,
    "fp_latent_window_size": at_least_one,  # FramePack's; the Wan trainer accepts it and never reads it, and so do we
}
ORBIT: dict[str, Check] = {"condition": one_of(*CONDITIONS), "holdout": holdout_share, "mirror": boolean}
IMAGE_ONLY = frozenset(
    [
        "image_directory",
        "image_jsonl_file",
        "multiple_target",
        "fp_1f_clean_indices",
        "fp_1f_target_index",
        "fp_1f_no_post",
        "no_resize_control",
        "control_resolution",
    ]
)


def nearest(key: str, known: Collection[str]) -> str:
    """The remedy for an unknown key: the known one it resembles most, or the whole list."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"nearest known key: {close[0]}" if close else "known keys: " + ", ".join(sorted(known))


def check_table(where: str, table: Mapping[str, Any], keys: Mapping[str, Check], problems: Problems) -> None:
    """Record every unknown key and every wrong value of one table; `where` reads "FILE [table]"."""
    for key, value in table.items():
        if key not in keys:
            problems.add(f"{where} {key}", "unknown key", nearest(key, keys))
        elif expected := keys[key](value):
            problems.add(f"{where} {key}", f"expected {expected}, found {value!r}")
