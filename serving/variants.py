"""Pictures of a finished video, drawn from the mp4 that the engine wrote: its first frame, and frames side by side."""

from __future__ import annotations

import io
from pathlib import Path


def draw(path: Path, variant: str) -> bytes:
    """PNG bytes of "thumbnail" (the first frame) or "filmstrip" (frames from first to last). Raises OSError."""
    from PIL import Image

    from musubi_ext.filmstrip import filmstrip
    from musubi_ext.video import read_video

    frames, _ = read_video(path)
    picture = Image.fromarray(frames[0]) if variant == "thumbnail" else filmstrip({"": frames})
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
