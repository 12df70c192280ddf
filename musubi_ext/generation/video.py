"""A generated video and where it came from; what an mp4 of it carries in its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musubi_ext.video import Frames, write_mp4


@dataclass(frozen=True)
class Video:
    """uint8 RGB frames (F, H, W, 3) at `fps`, with the request and the versions that made them.

    `seconds` is the wall-clock time it took; `notes` are sentences about what the model could not honour, such as a
    prompt longer than the text encoder reads.
    """

    frames: Frames
    fps: float
    request: dict[str, Any]
    versions: dict[str, Any]
    seconds: float
    notes: tuple[str, ...] = ()

    def save(self, path: Path | str) -> Path:
        """Write an H.264 mp4, whole or not at all; `musubi_ext.video.read_comment` gives request and versions back.

        The time it took is left out, so that the same video is the same bytes.
        """
        comment = {"request": self.request, "versions": self.versions}
        write_mp4(path, self.frames, self.fps, comment=comment)
        return Path(path)
