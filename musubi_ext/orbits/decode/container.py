"""Opening a clip from elsewhere: a whole, regular, local file of a known format, with a picture of a bounded size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.decode.truncation import missing_bytes

MAX_PIXELS = 8192 * 4320  # of one source frame
OPEN_OPTIONS = {  # a playlist named clip.mp4 must not make us open other files or addresses
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif",
    "protocol_whitelist": "file",
}
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def open_clip(path: Path | str) -> Iterator[tuple[Any, Any]]:
    """Yields (container, its first video stream) of a file; what libav refuses within the block becomes a UserError.

    One decoding thread: several clips are decoded side by side instead, and memory does not grow with the cores.
    MemoryError passes through. Raises UserError naming the file when it is no clip, no regular file or cut short.
    """
    _expect_whole_file(path)
    try:
        # Without "file:" a name such as `concat:a.mp4` is taken for an address.
        with av.open(f"file:{path}", options=OPEN_OPTIONS, metadata_errors="replace") as container:
            if not container.streams.video:
                fix = "remove the file or export it with its picture"
                raise UserError(f"{shown(path)}: expected a video stream, found none ({fix})")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise unreadable(path, "a codec that libav does not know")
            expect_bounded(path, stream.width, stream.height)
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.MemoryError as error:  # is an FFmpegError as well
        raise MemoryError(f"{shown(path)}: {error.strerror}") from error
    except av.FFmpegError as error:
        raise unreadable(path, error.strerror or str(error)) from error


def expect_bounded(path: Path | str, width: int, height: int) -> None:
    """Raises UserError unless a picture of `width`×`height` has 1 to MAX_PIXELS pixels."""
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise UserError(
            f"{shown(path)}: expected a picture of 1 to {MAX_PIXELS} pixels, found {width}x{height} (scale it down)"
        )


def unreadable(path: Path | str, reason: str) -> UserError:
    """The error for a file that is no clip we can read."""
    return UserError(
        f"{shown(path)}: expected a readable mp4, mov, mkv, webm or gif, found: {reason} (re-encode or remove)"
    )


def _expect_whole_file(path: Path | str) -> None:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise UserError(f"{shown(path)}: expected a file, found {kind} (remove it)")
        missing = missing_bytes(path, status.st_size)
    except ValueError as error:  # a name with a null byte
        raise unreadable(path, str(error)) from error
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    if missing:
        raise unreadable(path, f"one that is cut short, {missing}")
