"""What musubi-tuner builds a data set from and we refuse, each with its reason and an example, in four kinds:

* not trained here: image data sets, control videos;
* breaks later: musubi-tuner builds the data set, and caching or training then fails or never ends (counts of nought,
  nan frames a second, no suffix of captions, no folder for caches, names that no file system holds);
* trained otherwise than written, without an error: `true` as the number 1, frame counts and sizes rounded, one of two
  sources ignored, a folder without clips, two spellings of one cache folder;
* files that its parser takes minutes over, and JSON.

In the other direction there is one: a blank line in a JSONL list, which we pass over and musubi-tuner fails on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from musubi_ext.orbits.schema import ASCENDABLE

Table = dict[str, Any]
Rule = Callable[[Table, Table], bool]  # of a [[datasets]] table with [general] merged in, and that table alone
COUNTS = ("batch_size", "num_repeats", "frame_stride", "frame_sample", "max_frames")
PLACES = ("video_directory", "video_jsonl_file", "control_directory", "cache_directory")
EXTENSIONS = (".txt", ".caption")  # of the captions that are there
LISTS = ("target_frames", "resolution")


@dataclass(frozen=True)
class Intended:
    """One kind of data set that musubi-tuner builds and we refuse; `example` is a [[datasets]] table of that kind."""

    reason: str
    applies: Rule
    example: Table


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _sides(table: Table) -> list[Any]:
    return as_list(table.get("resolution", [960, 544]))


EXCEPTIONS = (
    Intended(
        "image data sets are not trained here: a still image has no camera motion to learn",
        lambda merged, table: "image_directory" in table or "image_jsonl_file" in table,
        {"image_directory": "images"},
    ),
    Intended(
        "Wan2.2 image-to-video takes no control video",
        lambda merged, table: "control_directory" in table,
        {"video_directory": "clips", "control_directory": "clips"},
    ),
    Intended(
        "true is no number, and musubi-tuner reads it as 1",
        lambda merged, table: any(
            isinstance(value, bool)
            for key in (*COUNTS, *LISTS, "fp_latent_window_size")
            for value in as_list(merged.get(key))
        ),
        {"video_directory": "clips", "batch_size": True},
    ),
    Intended(
        "a count of nought or less ends in a division by it or in nothing to train on, wherever it is read; one above "
        "a million is a slip",
        lambda merged, table: any(_whole(merged.get(key)) and not 1 <= merged[key] <= 1_000_000 for key in COUNTS),
        {"video_directory": "clips", "num_repeats": 0},
    ),
    Intended(
        "frame counts other than 4n+1 are rounded down with a warning: what is trained is not what is written",
        lambda merged, table: any(
            _whole(frames) and (frames % 4 != 1 or not 1 <= frames <= 1_000_000)
            for frames in as_list(merged.get("target_frames"))
        ),
        {"video_directory": "clips", "target_frames": [16]},
    ),
    Intended(
        "without target_frames nothing is cut from a clip",
        lambda merged, table: merged.get("target_frames") == [],
        {"video_directory": "clips", "target_frames": [], "frame_extraction": "chunk"},
    ),
    Intended(
        "caching raises ValueError at the first clip",
        lambda merged, table: (
            isinstance(merged.get("frame_extraction"), str)
            and merged["frame_extraction"] not in ("head", "chunk", "slide", "uniform", "full")
        ),
        {"video_directory": "clips", "frame_extraction": "middle"},
    ),
    Intended(
        "no clip has that many frames a second: caching divides by it, or keeps no frame",
        lambda merged, table: isinstance(merged.get("source_fps"), float) and not 0 < merged["source_fps"] <= 1000,
        {"video_directory": "clips", "source_fps": math.nan},
    ),
    Intended(
        "a side below 16 has no bucket, one above 8192 no memory",
        lambda merged, table: any(_whole(side) and not 16 <= side <= 8192 for side in _sides(merged)),
        {"video_directory": "clips", "resolution": [8, 8], "enable_bucket": True},
    ),
    Intended(
        "without buckets, sides not divisible by 16 are cached at another size than the one written",
        lambda merged, table: (
            merged.get("enable_bucket") is not True and any(_whole(side) and side % 16 for side in _sides(merged))
        ),
        {"video_directory": "clips", "resolution": [180, 320]},
    ),
    Intended(
        "captions are looked for in a file without a name, and caching texts fails",
        lambda merged, table: "video_directory" in table and not merged.get("caption_extension"),
        {"video_directory": "clips", "caption_extension": ""},
    ),
    Intended(
        "captions that are not there are found out while caching",
        lambda merged, table: (
            "video_directory" in table
            and merged.get("caption_extension", "") not in ("", *EXTENSIONS)
            and "/" not in merged["caption_extension"]
        ),
        {"video_directory": "clips", "caption_extension": ".md"},
    ),
    Intended(
        "captions belong beside their clips, under the clip's name",
        lambda merged, table: any(char in str(merged.get("caption_extension")) for char in "/\0"),
        {"video_directory": "clips", "caption_extension": "/caption.txt"},
    ),
    Intended(
        "an empty name, or one that no file system holds: the working directory is read, or nothing",
        lambda merged, table: (
            any(
                isinstance(name := merged.get(key), str)
                and (
                    not name
                    or "\0" in name
                    or len(name.encode()) > 4095
                    or any(len(p.encode()) > 255 for p in name.split("/"))
                )
                for key in PLACES
            )
            or len(str(merged.get("caption_extension"))) > 200
        ),
        {"video_directory": "clips", "cache_directory": "c" * 256},
    ),
    Intended(
        "a list of clips has no folder of its own, so its caches have none: caching fails",
        lambda merged, table: "video_jsonl_file" in table and "cache_directory" not in table,
        {"video_jsonl_file": "list.jsonl"},
    ),
    Intended(
        "of two sources musubi-tuner ignores the list",
        lambda merged, table: "video_directory" in table and "video_jsonl_file" in table,
        {"video_directory": "clips", "video_jsonl_file": "list.jsonl", "cache_directory": "cache"},
    ),
    Intended(
        "a folder without clips, or none at all, is trained on as a data set of nothing",
        lambda merged, table: table.get("video_directory") in ("empty", "nowhere", "list.jsonl"),
        {"video_directory": "empty"},
    ),
    Intended(
        "a list without clips, or with clips that are not there, is found out while caching",
        lambda merged, table: table.get("video_jsonl_file") in ("none.jsonl", "gone.jsonl"),
        {"video_jsonl_file": "none.jsonl", "cache_directory": "cache"},
    ),
)


def is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        bool(value) and isinstance(value, list) and all(isinstance(one, dict) for one in value)
    )


def excepted(document: Table) -> list[str]:
    """The reasons for which we may refuse what musubi-tuner accepts."""
    general, tables = document.get("general", {}), document.get("datasets", [])
    orbit = document.get("orbit", {})
    if not (isinstance(general, dict) and isinstance(orbit, dict) and is_table(tables)):
        return []
    found = [row.reason for row in EXCEPTIONS for table in tables if row.applies({**general, **table}, table)]
    found += [row.reason for row in EXCEPTIONS if row.applies(general, {}) and general.keys() & ASCENDABLE.keys()]
    caches = [os.path.realpath(str(table.get("cache_directory", table.get("video_directory")))) for table in tables]
    if len(set(caches)) < len(caches):
        found.append("two spellings of one cache folder: the data sets overwrite each other's caches")
    return found
