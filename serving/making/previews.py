"""What a video is going to be, while it is made: its middle, as the model predicts it at a step, in a small picture.

UniPC keeps the clean latents that it predicted at its last step; one latent frame of them, in the middle, is decoded as
a picture of its own (a little more saturated than within the video). It is only looked at: nothing random is drawn, and
no number that the video is made of changes.

The picture lies in the job's folder under a name with its step. The one before it stays, since somebody may be reading
it; all are deleted with the end.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from serving.config import Previews
from serving.making import wan_stages
from serving.making.preview_names import NAME

_QUALITY = 85
_log = logging.getLogger(__name__)


class Previewer:
    """Previews of one job, in `folder`. What goes wrong with one costs no job: it is logged, and no more are made."""

    def __init__(self, pipeline: Any, folder: Path, settings: Previews) -> None:
        self._pipeline, self._folder, self._settings = pipeline, folder, settings
        self._kept = _there(folder)  # by a process before this one
        self._began = time.perf_counter()
        self._off = settings.every == 0
        self.seconds = 0.0  # spent here
        self.latest = ""  # the newest picture's name in the folder

    def look(self, step: int, clean: Tensor) -> None:
        """Draw the predicted clean latents (1, 16, f, h, w) if it is `step`'s turn, and time was not spent on it."""
        elapsed = time.perf_counter() - self._began
        if self._off or step % self._settings.every or self.seconds > self._settings.share * elapsed:
            return
        if clean.is_cuda:
            torch.cuda.synchronize()  # the step under way is not our time
        started = time.perf_counter()
        try:
            self._write(step, clean)
        except (OSError, FloatingPointError, torch.OutOfMemoryError) as trouble:
            _log.warning("no more previews of %s: %s: %s", self._folder.name, type(trouble).__name__, trouble)
            self._off = True
        self.seconds += time.perf_counter() - started

    def _write(self, step: int, clean: Tensor) -> None:
        middle = clean.shape[2] // 2
        frame = wan_stages.decode(self._pipeline, clean[:, :, middle : middle + 1])[0]
        picture = Image.fromarray(frame)
        picture.thumbnail((self._settings.side, self._settings.side))
        path = self._folder / NAME.format(step=step)
        part = path.with_suffix(".part")
        picture.save(part, "JPEG", quality=_QUALITY)
        os.replace(part, path)  # whole or absent; nothing is lost with it in a power failure
        self.latest = path.name
        for old in self._kept[:-1]:
            old.unlink(missing_ok=True)
        self._kept = [*self._kept[-1:], path]


def clear(folder: Path) -> None:
    """Delete a job's previews: the video is there."""
    for path in _there(folder):
        path.unlink(missing_ok=True)


def _there(folder: Path) -> list[Path]:
    """Oldest first."""
    found = folder.glob(NAME.format(step="*"))
    return sorted(found, key=lambda path: path.stat().st_mtime)
