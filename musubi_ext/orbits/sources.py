"""The clips of a data set and their captions: from a directory, or from musubi-tuner's JSONL list."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import Problems, shown
from musubi_ext.orbits.cache.names import cache_names

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif")
UNREAD_SUFFIXES = (".avi", ".flv", ".wmv", ".mpg", ".mpeg")  # musubi-tuner tries these; we do not
LISTED = 10  # a data set with a thousand captions missing is one mistake: name this many and count the rest


@dataclass(frozen=True)
class Clip:
    """One video file and the sentence that describes it; `stem` and `mirrored_stem` name its caches."""

    path: Path
    caption: str
    stem: str
    mirrored_stem: str


def directory_clips(directory: Path, caption_extension: str, problems: Problems) -> tuple[Clip, ...]:
    """Clips of `directory` (not of its subfolders), sorted by name; the caption is `STEM + caption_extension`."""
    files = _files(directory, problems)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    unread = [path for path in files if path.suffix.lower() in UNREAD_SUFFIXES]
    _list(problems, unread, lambda path: "this container is not read", "convert it: ffmpeg -i IN OUT.mp4")
    if not videos and not unread and directory.is_dir():
        problems.add(directory, f"expected clips ({', '.join(VIDEO_SUFFIXES)}), found none", "correct video_directory")
    _one_caption_each(videos, caption_extension, problems)
    captions = _captions(videos, caption_extension, problems)
    return _named((video, captions[video], video.name) for video in videos if video in captions)


def _files(directory: Path, problems: Problems) -> list[Path]:
    try:
        paths = [path for path in directory.iterdir() if not path.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        found = "a file" if directory.exists() else "nothing"
        fix = "create it or correct video_directory"
        problems.add(directory, f"expected a directory of clips, found {found}", fix)
        return []
    except OSError as error:
        problems.add(directory, f"cannot be read: {error.strerror}", "check its permissions")
        return []
    return sorted(path for path in paths if path.is_file())


def _captions(videos: list[Path], extension: str, problems: Problems) -> dict[Path, str]:
    captions, missing = {}, []
    for video in videos:
        file = video.with_name(video.stem + extension)
        if not os.path.isfile(file):  # unlike Path.is_file, false also for a name that is too long
            missing.append(video)
        elif caption := _read_caption(file, problems):
            captions[video] = caption
    _list(
        problems,
        missing,
        lambda video: f"expected its caption in {shown(video.stem + extension)}, found none",
        "write one sentence there or remove the clip",
    )
    return captions


def _read_caption(file: Path, problems: Problems) -> str | None:
    try:
        caption = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        problems.add(shown(file), f"expected UTF-8 text, found byte {byte:#04x}", "save it as UTF-8")
        return None
    except OSError as error:
        problems.add(shown(file), f"cannot be read: {error.strerror}", "check its permissions")
        return None
    if not caption:
        problems.add(shown(file), "expected a caption, found an empty file", "write one sentence")
    return caption or None


def jsonl_clips(file: Path, problems: Problems) -> tuple[Clip, ...]:
    """Clips of a JSONL list, one `{"video_path": …, "caption": …}` a line, in the order of their paths."""
    lines = _lines(file, problems)
    places: dict[str, int] = {}  # the line that a clip's file first stands in
    clips = []
    for number, line in enumerate(lines, 1):
        where = f"{shown(file)} line {number}"
        if not line.strip() or not (clip := _jsonl_clip(where, line, problems)):
            continue
        path, caption = clip
        first = places.setdefault(os.path.abspath(path), number)
        if first != number:
            problems.add(where, f"{shown(path)} stands in line {first} too: a clip has one caption", "remove a line")
            continue
        clips.append((path, caption, os.path.normpath(path).replace(os.sep, "/")))
    return tuple(sorted(_named(clips), key=lambda clip: clip.path))


def _lines(file: Path, problems: Problems) -> list[str]:
    try:
        with open(file, encoding="utf-8") as text:
            lines = list(text)  # not splitlines: a caption may hold U+2028 or a form feed
    except FileNotFoundError:
        problems.add(file, "expected a JSONL list of clips, found nothing", "create it or correct video_jsonl_file")
    except UnicodeDecodeError as error:
        problems.add(file, f"expected UTF-8 text, found byte {error.object[error.start]:#04x}", "save it as UTF-8")
    except OSError as error:
        problems.add(file, f"expected a JSONL list of clips: {error.strerror}", "correct video_jsonl_file")
    else:
        if not any(line.strip() for line in lines):
            problems.add(file, "expected one clip a line, found an empty file", "add clips")
        return lines
    return []


def _jsonl_clip(where: str, line: str, problems: Problems) -> tuple[Path, str] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        problems.add(where, f"expected JSON, found {line[:40]!r}: {error}")
        return None
    fields = [record.get(key) if isinstance(record, dict) else None for key in ("video_path", "caption")]
    if not all(isinstance(field, str) and field.strip() for field in fields):
        problems.add(where, 'expected {"video_path": "…", "caption": "…"}, found ' + shown(line.strip()[:80]))
        return None
    path, caption = Path(str(fields[0])), str(fields[1]).strip()
    if caption != caption.encode("utf-8", "ignore").decode("utf-8"):
        problems.add(
            where, "expected a caption of whole characters, found half of a surrogate pair", "mend the caption"
        )
        return None
    if not os.path.isfile(path) or path.suffix.lower() not in VIDEO_SUFFIXES:
        expected = f"expected a clip ({', '.join(VIDEO_SUFFIXES)}) at {shown(path)}, found none"
        problems.add(where, expected, "correct video_path")
        return None
    return path, caption


def _named(found: Iterable[tuple[Path, str, str]]) -> tuple[Clip, ...]:
    """Clips of (path, caption, place), the place being what `cache_names` tells namesakes apart by."""
    clips = list(found)
    names = cache_names([place for _, _, place in clips])
    return tuple(Clip(path, caption, names[place].stem, names[place].mirrored) for path, caption, place in clips)


def _one_caption_each(videos: list[Path], extension: str, problems: Problems) -> None:
    """cat.mp4 and cat.mov have one caption file between them, and it may be meant for either."""
    first: dict[str, Path] = {}
    for video in videos:
        other = first.setdefault(video.stem, video)
        if other != video:
            message = f"has the same name as {shown(other)}, so both would have the caption of {shown(video.stem)}"
            problems.add(shown(video), message + extension, "rename one")


def _list(problems: Problems, paths: list[Path], message: Callable[[Path], str], fix: str) -> None:
    for path in paths[:LISTED]:
        problems.add(shown(path), message(path), fix)
    if len(paths) > LISTED:
        problems.add(paths[0].parent, f"the same for {len(paths) - LISTED} more clips")
