"""The clips of a data set and their captions: from a directory, or from musubi-tuner's JSONL list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import Problems

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif")
UNREAD_SUFFIXES = (".avi", ".flv", ".wmv", ".mpg", ".mpeg")  # musubi-tuner tries these; we do not
LISTED = 10  # a data set with a thousand captions missing is one mistake: name this many and count the rest


@dataclass(frozen=True)
class Clip:
    """One video file and the sentence that describes it."""

    path: Path
    caption: str

    @property
    def stem(self) -> str:
        """Names the clip's caches, as musubi-tuner's file names do."""
        return self.path.stem


def directory_clips(directory: Path, caption_extension: str, problems: Problems) -> tuple[Clip, ...]:
    """Clips of `directory` (not of its subfolders), sorted by name; the caption is `STEM + caption_extension`."""
    if not directory.is_dir():
        problems.add(
            directory,
            "expected a directory of clips, found " + ("a file" if directory.exists() else "nothing"),
            "create it or correct video_directory",
        )
        return ()
    files = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    unread = [path for path in files if path.suffix.lower() in UNREAD_SUFFIXES]
    _list(problems, unread, lambda path: "this container is not read", "convert it: ffmpeg -i IN OUT.mp4")
    if not videos and not unread:
        problems.add(directory, f"expected clips ({', '.join(VIDEO_SUFFIXES)}), found none", "correct video_directory")
    _same_stem(videos, problems)
    return _with_captions(videos, caption_extension, problems)


def _with_captions(videos: list[Path], extension: str, problems: Problems) -> tuple[Clip, ...]:
    clips, missing = [], []
    for video in videos:
        file = video.with_name(video.stem + extension)
        caption = _read_caption(file, problems) if file.is_file() else None
        if caption is not None:
            clips.append(Clip(video, caption))
        elif not file.is_file():
            missing.append(video)
    _list(
        problems,
        missing,
        lambda video: f"expected its caption in {video.stem}{extension}, found none",
        "write one sentence there or remove the clip",
    )
    return tuple(clips)


def _read_caption(file: Path, problems: Problems) -> str | None:
    try:
        caption = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        problems.add(file, f"expected UTF-8 text, found byte {error.object[error.start]:#04x}", "save it as UTF-8")
        return None
    if not caption:
        problems.add(file, "expected a caption, found an empty file", "write one sentence")
    return caption or None


def jsonl_clips(file: Path, problems: Problems) -> tuple[Clip, ...]:
    """Clips of a JSONL list, one `{"video_path": …, "caption": …}` a line, in the order of their paths."""
    if not file.is_file():
        problems.add(file, "expected a JSONL list of clips, found nothing", "create it or correct video_jsonl_file")
        return ()
    clips = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and (clip := _jsonl_clip(f"{file} line {number}", line, problems)):
            clips.append(clip)
    if not clips and not problems.found:
        problems.add(file, "expected one clip a line, found an empty file", "add clips")
    _same_stem([clip.path for clip in clips], problems)
    return tuple(sorted(clips, key=lambda clip: clip.path))


def _jsonl_clip(where: str, line: str, problems: Problems) -> Clip | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        problems.add(where, f"expected JSON, found {line[:40]!r}: {error}")
        return None
    fields = [record.get(key) if isinstance(record, dict) else None for key in ("video_path", "caption")]
    if not all(isinstance(field, str) and field.strip() for field in fields):
        problems.add(where, 'expected {"video_path": "…", "caption": "…"}, found ' + line[:80])
        return None
    path = Path(str(fields[0]))
    if not path.is_file() or path.suffix.lower() not in VIDEO_SUFFIXES:
        problems.add(
            where, f"expected a clip ({', '.join(VIDEO_SUFFIXES)}) at {path}, found none", "correct video_path"
        )
        return None
    return Clip(path, str(fields[1]).strip())


def _same_stem(videos: Iterable[Path], problems: Problems) -> None:
    """Caches are named by stem alone: cat.mp4 and cat.mov, or a/cat.mp4 and b/cat.mp4, would overwrite each other."""
    first: dict[str, Path] = {}
    for video in videos:
        if video.stem in first:
            problems.add(
                video, f"has the same name as {first[video.stem]}, so their caches would collide", "rename one"
            )
        first.setdefault(video.stem, video)


def _list(problems: Problems, paths: list[Path], message: Callable[[Path], str], fix: str) -> None:
    for path in paths[:LISTED]:
        problems.add(path, message(path), fix)
    if len(paths) > LISTED:
        problems.add(paths[0].parent, f"the same for {len(paths) - LISTED} more clips")
