"""Videos as one picture: a labelled row of frames for each, so that a stranger sees what moved and what did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from musubi_ext.storage import atomic_path
from musubi_ext.video import Frames

MARGIN = 24  # pixels around everything
GAP = 4  # between the frames of a row
ROW_GAP = 14
CELL_SIDE = 128  # the shorter side of a frame: tiny ones are scaled up to it, large ones down
LABEL_SIZE, NUMBER_SIZE, CAPTION_SIZE = 17, 13, 19  # text heights in pixels
INK, FAINT, PAPER = (28, 30, 34), (126, 130, 138), (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def filmstrip(
    rows: Mapping[str, Frames], columns: int = 8, scale: float | None = None, caption: str = ""
) -> Image.Image:
    """Draw `rows`, label → uint8 frames (F, H, W, 3): `columns` frames of each, evenly spaced from first to last.

    `scale` multiplies the frames' size; by default the shorter side of every frame becomes 128 pixels. `caption` stands
    above the rows, wrapped where it is long. When all rows have the same number of frames of the same size, the numbers
    of the frames shown stand above the columns. Raises ValueError without rows or frames.
    """
    if not rows or columns < 1 or any(frames.ndim != 4 or not len(frames) for frames in rows.values()):
        raise ValueError("a filmstrip needs at least one row of frames (F, H, W, 3) and one column")
    strips = {label: _cells(frames, columns, scale) for label, frames in rows.items()}
    label_width = max(_width(line, _font(LABEL_SIZE)) for label in ("frame", *rows) for line in label.split("\n"))
    body_width = max(sum(cell.width + GAP for cell in strip) - GAP for strip in strips.values())
    left = MARGIN + label_width + MARGIN // 2
    width = left + body_width + MARGIN
    lines = _wrap(caption, _font(CAPTION_SIZE), width - 2 * MARGIN)
    numbers = _frame_numbers(list(rows.values()), columns)
    top = MARGIN + len(lines) * (CAPTION_SIZE + 8) + (MARGIN // 2 if lines else 0)
    body = sum(strip[0].height + ROW_GAP for strip in strips.values()) - ROW_GAP
    sheet = Image.new("RGB", (width, top + (NUMBER_SIZE + 8 if numbers else 0) + body + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + index * (CAPTION_SIZE + 8)), line, INK, _font(CAPTION_SIZE))
    if numbers:
        _draw_numbers(draw, numbers, next(iter(strips.values())), left, top)
        top += NUMBER_SIZE + 8
    for label, strip in strips.items():
        _draw_row(sheet, draw, label, strip, left, top)
        top += strip[0].height + ROW_GAP
    return sheet


def save_filmstrip(path: Path | str, rows: Mapping[str, Frames], columns: int = 8, caption: str = "") -> Path:
    """Draw `rows` (see `filmstrip`) into a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        filmstrip(rows, columns, caption=caption).save(temporary, format="PNG", optimize=True)
    return Path(path)


def frame_indices(count: int, columns: int) -> list[int]:
    """`columns` indices from the first of `count` frames to the last, evenly spaced; at most `count`."""
    return [int(index) for index in np.linspace(0, count - 1, min(columns, count)).round()]


def _cells(frames: Frames, columns: int, scale: float | None) -> list[Image.Image]:
    """The chosen frames of one row, scaled: by Lanczos, for nearest would show pixels as bricks."""
    height, width = frames.shape[1:3]
    factor = scale or CELL_SIDE / min(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    chosen = (Image.fromarray(frames[index]) for index in frame_indices(len(frames), columns))
    return [image.resize(size, Image.Resampling.LANCZOS) for image in chosen]


def _frame_numbers(rows: Sequence[Frames], columns: int) -> list[int]:
    """Indices above the columns; none when rows differ in length, for then a column is no single frame."""
    lengths = {len(frames) for frames in rows}
    sizes = {frames.shape[1:3] for frames in rows}
    return frame_indices(lengths.pop(), columns) if len(lengths) == 1 and len(sizes) == 1 else []


def _draw_numbers(draw: ImageDraw.ImageDraw, numbers: list[int], cells: list[Image.Image], left: int, top: int) -> None:
    font = _font(NUMBER_SIZE)
    draw.text((left - MARGIN // 2, top), "frame", FAINT, font, anchor="ra")
    for index, (number, cell) in enumerate(zip(numbers, cells, strict=True)):
        centre = left + index * (cell.width + GAP) + cell.width // 2
        draw.text((centre, top), str(number), FAINT, font, anchor="ma")


def _draw_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, label: str, cells: list[Image.Image], left: int, top: int
) -> None:
    middle = top + cells[0].height // 2
    draw.multiline_text(
        (left - MARGIN // 2, middle), label, INK, _font(LABEL_SIZE), anchor="rm", align="right", spacing=6
    )
    for index, cell in enumerate(cells):
        sheet.paste(cell, (left + index * (cell.width + GAP), top))


def _font(size: int) -> Font:
    """Pillow's own typeface, the same on every machine."""
    return ImageFont.load_default(size)


def _width(text: str, font: Font) -> int:
    return int(np.ceil(font.getlength(text)))


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """`text` broken between words into lines at most `width` pixels long (a longer word keeps its own line)."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and _width(joined, font) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
