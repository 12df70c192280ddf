"""Every clip of a data set with what its caption says or lacks: unlike training, a check names them all, fit or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.config import DatasetConfig, VideoDataset
from musubi_ext.orbits.sources import UNREAD_SUFFIXES, VIDEO_SUFFIXES, jsonl_clips


@dataclass(frozen=True)
class Listed:
    """One entry of a data set; `problem` says why it cannot be read, `caption_problem` what its caption lacks."""

    dataset: int  # index of its [[datasets]] table
    path: Path
    caption: str = ""
    caption_problem: str = ""
    problem: str = ""


def list_clips(config: DatasetConfig) -> tuple[Listed, ...]:
    """The clips of every `[[datasets]]` table, in order. Raises UserError when a folder or list is missing or empty."""
    problems = Problems()
    found: list[Listed] = []
    for index, dataset in enumerate(config.datasets):
        found += problems.collect(partial(_listed, index, dataset)) or []
    problems.raise_if_any()
    return tuple(found)


def _listed(index: int, dataset: VideoDataset) -> list[Listed]:
    if dataset.video_jsonl_file is not None:
        return list(_of_jsonl(index, dataset.video_jsonl_file))
    return list(_of_directory(index, Path(dataset.video_directory or ""), dataset.caption_extension or ""))


def _of_jsonl(index: int, file: Path) -> Iterator[Listed]:
    problems = Problems()
    clips = jsonl_clips(file, problems)
    if not file.is_file():
        raise UserError(problems.found)
    yield from (Listed(index, clip.path, clip.caption) for clip in clips)
    yield from (Listed(index, file, problem=problem) for problem in problems.found)


def _of_directory(index: int, folder: Path, extension: str) -> Iterator[Listed]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: expected a directory of clips, found: {error.strerror}") from error
    paths = [folder / name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES + UNREAD_SUFFIXES]
    if not paths:
        suffixes = ", ".join(VIDEO_SUFFIXES)
        raise UserError(f"{folder}: expected clips ({suffixes}), found none (correct video_directory)")
    first: dict[str, Path] = {}
    for path in paths:
        yield _of_file(index, path, extension, first.setdefault(path.stem, path))


def _of_file(index: int, path: Path, extension: str, namesake: Path) -> Listed:
    if path.suffix.lower() in UNREAD_SUFFIXES:
        return Listed(index, path, problem="this container is not read (convert it: ffmpeg -i IN OUT.mp4)")
    if not path.is_file():
        return Listed(index, path, problem=f"expected a file, found {_kind(path)}")
    if namesake != path:
        reason = f"shares its caption with {shown(namesake.name)} (rename one)"
        return Listed(index, path, caption_problem=reason)
    caption, problem = _read_caption(path.with_name(path.stem + extension))
    return Listed(index, path, caption, problem)


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "a link that leads nowhere"
    return "a folder" if path.is_dir() else "a device, pipe or socket"


def _read_caption(file: Path) -> tuple[str, str]:
    """The caption and what is wrong with it, one of them empty."""
    try:
        caption = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return "", f"no caption: expected {shown(file.name)}"
    except OSError as error:
        return "", f"the caption {shown(file.name)} cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        return "", f"the caption is not UTF-8: byte {error.object[error.start]:#04x} in {shown(file.name)}"
    return caption, "" if caption else f"empty caption: {shown(file.name)} holds no text"
