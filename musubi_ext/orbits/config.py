"""The dataset TOML: musubi-tuner's own schema plus one optional table, read with every mistake reported at once.

```toml
[general]                    # defaults of every [[datasets]] table
resolution = [64, 64]
[[datasets]]
video_directory = "clips"
target_frames = [17]
[orbit]                      # ours; without it the file is valid for musubi-tuner as it stands
condition = "first"          # which frames are given: first | first_last | mixed (either, by the clip's hash)
holdout = 0.1                # share of the clips kept from training, chosen by content hash
mirror = false               # also train on each clip mirrored, its caption's directions swapped
```
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.schema import (
    ASCENDABLE,
    LISTED,
    ORBIT,
    STEP,
    VIDEO,
    add_unknown,
    check_table,
    found,
    read_toml,
)
from musubi_ext.orbits.sources import Clip, directory_clips, jsonl_clips


@dataclass(frozen=True)
class VideoDataset:
    """One `[[datasets]]` table with `[general]` merged in; defaults are musubi-tuner's `VideoDatasetParams`."""

    cache_directory: Path
    video_directory: Path | None = None
    video_jsonl_file: Path | None = None
    resolution: tuple[int, int] = (960, 544)  # width, height: exact without buckets, an area with them
    caption_extension: str | None = None
    batch_size: int = 1
    num_repeats: int = 1
    enable_bucket: bool = False
    bucket_no_upscale: bool = False
    target_frames: tuple[int, ...] = (1,)  # sorted, each 4n+1
    frame_extraction: str = "head"
    frame_stride: int = 1  # of "slide"
    frame_sample: int = 1  # of "uniform"
    max_frames: int = 129  # of "full"
    source_fps: float | None = None  # given: frames are dropped to reach 16 a second

    def clips(self) -> tuple[Clip, ...]:
        """The clips and captions on disk now. Raises UserError naming every clip or caption that is missing."""
        problems = Problems()
        clips = self.find_clips(problems)
        problems.raise_if_any()
        return clips

    def find_clips(self, problems: Problems) -> tuple[Clip, ...]:
        """As `clips`, recording what is wrong in `problems` instead of raising."""
        if self.video_jsonl_file is None:
            return directory_clips(Path(self.video_directory or ""), self.caption_extension or "", problems)
        try:
            return jsonl_clips(self.video_jsonl_file, problems)
        except RecursionError:
            problems.add(shown(self.video_jsonl_file), "expected one clip a line, found JSON that is nested too deep")
            return ()


@dataclass(frozen=True)
class OrbitOptions:
    """The `[orbit]` table."""

    condition: str = "first"
    holdout: float = 0.0
    mirror: bool = False


@dataclass(frozen=True)
class DatasetConfig:
    """A dataset TOML that has been read and checked."""

    path: Path
    datasets: tuple[VideoDataset, ...]
    orbit: OrbitOptions = OrbitOptions()
    orbit_given: bool = True  # False: the file has no [orbit] table, and means to musubi-tuner what it says


def load_dataset_config(path: Path | str, *, check_files: bool = True) -> DatasetConfig:
    """Read a dataset TOML; relative folders are relative to the working directory, as for musubi-tuner.

    `check_files` also looks for the clips and captions. Raises UserError with every mistake found, each naming the
    file, the key, what was expected and what was found.
    """
    path = Path(path)
    document = read_toml(path, "a dataset TOML (see dataset_toml/ for examples)", named_toml=True)
    problems = Problems()
    _check_document(shown(path), document, problems)
    _raise_if_any(path, problems)
    config = _build(path, document)
    _check_datasets(config, problems)
    if check_files:
        for dataset in config.datasets:
            dataset.find_clips(problems)
    _raise_if_any(path, problems)
    return config


def _raise_if_any(path: Path, problems: Problems) -> None:
    """Raises UserError with the first hundred mistakes and how many more there are."""
    if more := len(problems.found[LISTED:]):
        raise UserError([*problems.found[:LISTED], f"{shown(path)}: and {more} more mistakes"])
    problems.raise_if_any()


def _check_document(name: str, document: Mapping[str, Any], problems: Problems) -> None:
    tables = {"general": ASCENDABLE, "orbit": ORBIT}
    for key in sorted(document.keys() - {"datasets", *tables}):
        add_unknown(name, key, ("datasets", *tables), problems)
    for title, keys in tables.items():
        table = document.get(title, {})
        if isinstance(table, dict):
            check_table(f"{name} [{title}]", table, keys, problems)
        else:
            problems.add(f"{name} {title}", f"expected a table [{title}], found {found(table)}")
    datasets = document.get("datasets")
    if not isinstance(datasets, list) or not datasets or not all(isinstance(table, dict) for table in datasets):
        there = "nothing" if datasets is None else found(datasets)
        problems.add(f"{name} datasets", f"expected at least one [[datasets]] table, found {there}")
        return
    for index, table in enumerate(datasets):
        _check_dataset(f"{name} [[datasets]] {index}", {**_inherited(document), **table}, table, problems)


def _inherited(document: Mapping[str, Any]) -> dict[str, Any]:
    general = document.get("general")
    return dict(general) if isinstance(general, dict) else {}


def _check_dataset(where: str, merged: Mapping[str, Any], table: Mapping[str, Any], problems: Problems) -> None:
    images = [key for key in ("image_directory", "image_jsonl_file") if key in table]
    if images:
        problems.add(
            f"{where} {images[0]}",
            "image data sets are not trained here: a still image has no camera motion to learn, and as its own first "
            "frame it would teach the adapters to stand still",
            "use video_directory",
        )
    check_table(where, {key: value for key, value in table.items() if key not in images}, VIDEO, problems)
    if "control_directory" in table:
        problems.add(f"{where} control_directory", "Wan2.2 image-to-video takes no control video", "remove the key")
    given = [key for key in ("video_directory", "video_jsonl_file") if key in table]
    if len(given) != 1 and not images:
        both = " and ".join(given) or "neither"
        problems.add(where, f"expected one of video_directory and video_jsonl_file, found {both}")
    if "video_directory" in table and "caption_extension" not in merged:
        problems.add(f"{where} caption_extension", "expected the suffix of the captions, found nothing", 'add ".txt"')
    if "video_jsonl_file" in table and "cache_directory" not in table:
        problems.add(f"{where} cache_directory", "a JSONL list needs a folder for its caches", "add cache_directory")


def _build(path: Path, document: Mapping[str, Any]) -> DatasetConfig:
    tables = [{**_inherited(document), **table} for table in document["datasets"]]
    options = OrbitOptions(**document.get("orbit", {}))
    return DatasetConfig(path, tuple(map(_dataset, tables)), options, "orbit" in document)


def _dataset(table: dict[str, Any]) -> VideoDataset:
    values = {key: value for key, value in table.items() if key != "fp_latent_window_size"}
    for key in ("video_directory", "video_jsonl_file", "cache_directory"):
        if key in values:
            values[key] = Path(values[key])
    values.setdefault("cache_directory", values.get("video_directory"))
    if "resolution" in values:
        sides = values["resolution"]
        values["resolution"] = tuple(sides) if isinstance(sides, list) else (sides, sides)
    if "target_frames" in values:
        values["target_frames"] = tuple(sorted(set(values["target_frames"])))
    return VideoDataset(**values)


def _check_datasets(config: DatasetConfig, problems: Problems) -> None:
    """What no single key shows: sides without buckets, a cache folder used twice, a last frame that is the first."""
    caches: dict[str, int] = {}
    for index, dataset in enumerate(config.datasets):
        where = f"{shown(config.path)} [[datasets]] {index}"
        if not dataset.enable_bucket and any(side % STEP for side in dataset.resolution):
            near = [max(STEP, round(side / STEP) * STEP) for side in dataset.resolution]
            problems.add(
                f"{where} resolution",
                f"expected sides divisible by {STEP}, found {list(dataset.resolution)}",
                f"use {near} or enable_bucket = true",
            )
        other = caches.setdefault(os.path.realpath(dataset.cache_directory), index)
        if other != index:
            problems.add(
                f"{where} cache_directory",
                f"expected a folder of its own, found {dataset.cache_directory} of table {other}",
                "give each data set its own cache_directory",
            )
        if config.orbit.condition != "first" and min(dataset.target_frames) == 1 and dataset.frame_extraction != "full":
            problems.add(
                f"{where} target_frames",
                f'"{config.orbit.condition}" needs 5 frames or more, found 1',
                "e.g. target_frames = [17]",
            )
