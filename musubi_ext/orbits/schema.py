"""Every key a dataset TOML may hold, what its value must be, and the sentence for each way it can be wrong.

The keys and their types are musubi-tuner's (v0.3.4, `dataset/config_utils.py`, `ConfigSanitizer`); `[orbit]` is ours.
Where a value is refused that musubi-tuner accepts, tests/host/test_config_equality.py has the reason.
"""

from __future__ import annotations

import difflib
import io
import reprlib
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import toml

from musubi_ext.errors import Problems, UserError, shown

LARGEST_FILE = 1 << 17  # bytes: some 800 data sets; the parser takes minutes over a few megabytes of the wrong kind
DEEPEST = 40  # brackets within brackets: the parser's time grows with the square of it, until it gives up
LISTED = 100  # mistakes of one file that are told in full
LARGEST_COUNT = 1_000_000
STEP = 16  # a bucket's sides: 8 of the VAE times 2 of the transformer's patch
EXTRACTIONS = ("head", "chunk", "slide", "uniform", "full")
CONDITIONS = ("first", "first_last", "mixed")

Check = Callable[[Any], "str | None"]  # what was expected of the value, or None when it is right


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def place(value: Any) -> str | None:
    """A path of a file or folder: a string that a file system can hold."""
    if not isinstance(value, str) or not value:
        return "a non-empty string"
    try:
        encoded = value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return "a path of whole characters"
    fits = len(encoded) < 4096 and max(map(len, encoded.split(b"/"))) <= 255 and b"\0" not in encoded
    return None if fits else "a path of at most 255 bytes a name, without NUL"


def suffix(value: Any) -> str | None:
    """What follows a clip's name in that of its caption."""
    wrong = place(value) is not None or "/" in value
    return 'a suffix such as ".txt"' if wrong else None


def boolean(value: Any) -> str | None:
    """true or false."""
    return None if isinstance(value, bool) else "true or false"


def integer(value: Any) -> str | None:
    """Any integer."""
    return None if _is_int(value) else "an integer"


def count(value: Any) -> str | None:
    """An integer from 1 to a million."""
    right = _is_int(value) and 1 <= value <= LARGEST_COUNT
    return None if right else f"an integer from 1 to {LARGEST_COUNT}"


def frames_per_second(value: Any) -> str | None:
    """A positive decimal: musubi-tuner refuses 30 and accepts 30.0, and one file must do for both."""
    if _is_int(value) and 0 < value <= 1000:
        return f"a decimal number, {value}.0 (musubi-tuner refuses an integer here)"
    return None if isinstance(value, float) and 0 < value <= 1000 else "frames per second as a decimal, e.g. 30.0"


def resolution(value: Any) -> str | None:
    """[width, height], or one integer for both."""
    sides = value if isinstance(value, list) else [value, value]
    right = len(sides) == 2 and all(_is_int(side) and STEP <= side <= 8192 for side in sides)
    return None if right else f"[width, height] in pixels, each {STEP} to 8192, or one number for both"


def frame_counts(value: Any) -> str | None:
    """A list of counts 4n+1: the VAE keeps the first frame and packs every four after it."""
    if not isinstance(value, list) or not value or any(count(frames) for frames in value):
        return f"a list of frame counts from 1 to {LARGEST_COUNT}, e.g. [17]"
    wrong = list(dict.fromkeys(frames for frames in value if frames % 4 != 1))
    if not wrong:
        return None
    below = {frames: (frames - 1) // 4 * 4 + 1 for frames in wrong[:5]}
    near = ", ".join(f"for {frames}: {low} or {low + 4}" for frames, low in below.items())
    return f"frame counts of the form 4n+1 ({near})"


def one_of(*names: str) -> Check:
    """A check that the value is one of `names`."""
    return lambda value: None if value in names else "one of " + ", ".join(names)


def holdout_share(value: Any) -> str | None:
    """The share of clips kept from training, 0 to 0.5."""
    right = (isinstance(value, float) or _is_int(value)) and 0 <= value <= 0.5
    return None if right else "a share of the clips, 0 to 0.5"


ASCENDABLE: dict[str, Check] = {  # may stand in [general] and be overridden in [[datasets]]
    "caption_extension": suffix,
    "batch_size": count,
    "num_repeats": count,
    "resolution": resolution,
    "enable_bucket": boolean,
    "bucket_no_upscale": boolean,
}
VIDEO: dict[str, Check] = {
    **ASCENDABLE,
    "video_directory": place,
    "video_jsonl_file": place,
    "control_directory": place,
    "target_frames": frame_counts,
    "frame_extraction": one_of(*EXTRACTIONS),
    "frame_stride": count,
    "frame_sample": count,
    "max_frames": count,
    "cache_directory": place,
    "source_fps": frames_per_second,
    "fp_latent_window_size": integer,  # FramePack's; the Wan trainer accepts it and never reads it, and so do we
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


TABLES: dict[str, Mapping[str, Check]] = {"[general]": ASCENDABLE, "[[datasets]]": VIDEO, "[orbit]": ORBIT}


def read_toml(path: Path, expected: str, *, named_toml: bool = False) -> dict[str, Any]:
    """The document in a TOML file, by the parser that musubi-tuner uses. `expected` says in words what it should be.

    Raises UserError for whatever is no readable file of TOML, also one that would keep the parser busy for long; with
    `named_toml` also for another suffix, which musubi-tuner refuses.
    """
    where = shown(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
            raise UserError(f"{where}: expected {expected}, found {kind}")
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise UserError(f"{where}: expected {expected}, found nothing") from error
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where}: expected {expected}, which cannot be read: {reason}") from error
    if named_toml and not path.name.lower().endswith(".toml"):
        raise UserError(f"{where}: expected {expected} with the suffix .toml, found {path.suffix or 'no suffix'}")
    if len(data) > LARGEST_FILE:
        raise UserError(f"{where}: expected {expected} of at most {LARGEST_FILE >> 10} kB, found more")
    return _parsed(where, data)


def _parsed(where: str, data: bytes) -> dict[str, Any]:
    try:
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()  # every kind of line end
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at {error.start}"
        raise UserError(f"{where}: expected UTF-8 text, found {found} (save it as UTF-8)") from error
    if text.startswith("\ufeff"):
        raise UserError(
            f"{where}: begins with a byte order mark, which musubi-tuner refuses (save it as UTF-8 without)"
        )
    if _depth(text) > DEEPEST:
        raise UserError(f"{where}: not valid TOML: brackets within brackets, more than {DEEPEST} deep")
    try:
        return dict(toml.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # toml 0.10 lets errors of its own out of some malformed lines
        raise UserError(f"{where}: not valid TOML: {shown(str(error))[:200]}") from error


def _depth(text: str) -> int:
    """The most brackets open at once, those in strings and comments included."""
    depth = deepest = 0
    for char in text:
        if char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth = max(0, depth - 1)
    return deepest


def found(value: Any) -> str:
    """A value as a message shows it: on one line, not longer than it."""
    return shown(_Brief().repr(value))


class _Brief(reprlib.Repr):
    """Python's short form; also of integers too long for Python to write and of the dicts of TOML's parser."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr1(self, x: Any, level: int) -> str:
        """As the base class, by kind instead of by the name of the class."""
        if _is_int(x) and abs(x) >= 10**18:
            return f"an integer of {x.bit_length()} bits"
        return self.repr_dict(x, level) if isinstance(x, dict) else super().repr1(x, level)


def nearest(key: str, known: Collection[str]) -> str:
    """The remedy for an unknown key: the known one it resembles most, or the whole list."""
    close = difflib.get_close_matches(key.lower(), known, n=1)
    return f"nearest known key: {close[0]}" if close else "known keys: " + ", ".join(sorted(known))


def add_unknown(where: str, key: str, known: Collection[str], problems: Problems) -> None:
    """Record a key that does not belong into the table that `where` ends with: misspelt, or of another table."""
    name = f"{where} {shown(key)[:80]}"
    homes = [table for table, keys in TABLES.items() if key in keys]
    if homes:
        problems.add(name, "does not belong in this table", f"move it to {homes[0]}")
    elif key in IMAGE_ONLY:
        problems.add(name, "a key of image data sets, which are not trained here", "remove it")
    else:  # what resembles it takes a while to find
        problems.add(name, "unknown key", nearest(key, known) if len(problems.found) < LISTED else "")


def check_table(where: str, table: Mapping[str, Any], keys: Mapping[str, Check], problems: Problems) -> None:
    """Record every unknown key and every wrong value of one table; `where` reads "FILE [table]"."""
    for key, value in table.items():
        if key not in keys:
            add_unknown(where, key, keys, problems)
        elif expected := keys[key](value):
            problems.add(f"{where} {key}", f"expected {expected}, found {found(value)}")
