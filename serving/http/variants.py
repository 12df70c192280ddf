"""Pictures of a finished video, drawn from the mp4 that the engine wrote: its first frame, and frames side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

COLUMNS = 8  # of a filmstrip, first and last frame among them
HEIGHT = 128  # pixels of its frames, at most
_GAP = 4  # transparent pixels between two


def draw(path: Path, variant: str) -> bytes:
    """PNG bytes of "thumbnail" (the first frame) or "filmstrip" (frames from first to last). Raises OSError."""
    from PIL import Image

    from musubi_ext.video import read_video

    frames, _ = read_video(path)
    picture = Image.fromarray(frames[0]) if variant == "thumbnail" else Image.fromarray(_strip(frames))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _strip(frames: np.ndarray) -> np.ndarray:
    """uint8 frames (F, H, W, 3) → RGBA (h, w, 4): on any background, light or dark."""
    from PIL import Image

    chosen = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    height, width = frames.shape[1:3]
    share = min(1.0, HEIGHT / height)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    sheet = np.zeros((size[1], len(chosen) * (size[0] + _GAP) - _GAP, 4), dtype=np.uint8)
    for column, index in enumerate(chosen):
        left = column * (size[0] + _GAP)
        sheet[:, left : left + size[0], :3] = Image.fromarray(frames[index]).resize(size, Image.Resampling.BOX)
        sheet[:, left : left + size[0], 3] = 255
    return sheet
