"""The filmstrip's geometry: what is shown where, at which size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musubi_ext.filmstrip import CELL_SIDE, GAP, MARGIN, filmstrip, frame_indices, save_filmstrip
from musubi_ext.video import Frames


def ramp(count: int, height: int = 16, width: int = 16) -> Frames:
    """Frame i is uniformly grey 10·i."""
    return np.repeat(np.arange(count, dtype=np.uint8) * 10, height * width * 3).reshape(count, height, width, 3)


def test_both_ends_are_always_shown() -> None:
    assert frame_indices(17, 8) == [0, 2, 5, 7, 9, 11, 14, 16]
    assert frame_indices(3, 8) == [0, 1, 2]
    assert frame_indices(81, 1) == [0]


def test_cells_lie_side_by_side_and_carry_the_chosen_frames() -> None:
    strip = np.asarray(filmstrip({"a": ramp(17), "a longer label": ramp(17)}, columns=8))
    height, width = strip.shape[:2]
    left = width - MARGIN - 8 * CELL_SIDE - 7 * GAP
    rows = (height - MARGIN - CELL_SIDE // 2, height - MARGIN - CELL_SIDE - CELL_SIDE // 2 - 14)
    for row in rows:
        centres = [strip[row, left + i * (CELL_SIDE + GAP) + CELL_SIDE // 2, 0] for i in range(8)]
        assert centres == [10 * i for i in frame_indices(17, 8)]


def test_tiny_frames_are_scaled_up_and_large_ones_down() -> None:
    tiny, large = filmstrip({"x": ramp(2, 16, 16)}), filmstrip({"x": ramp(2, 512, 512)})
    assert tiny.size == large.size
    assert filmstrip({"x": ramp(2)}, scale=1).width < tiny.width


def test_rows_may_differ_in_length_and_shape() -> None:
    strip = filmstrip({"one": ramp(1), "wide": ramp(9, 16, 32)}, columns=4)
    assert strip.width > 4 * 2 * CELL_SIDE


def test_a_long_caption_makes_the_sheet_higher_not_wider() -> None:
    plain, long = filmstrip({"x": ramp(4)}), filmstrip({"x": ramp(4)}, caption="camera circles right to left " * 10)
    assert long.width == plain.width
    assert long.height > plain.height + 60


def test_labels_are_inked() -> None:
    blank, labelled = np.asarray(filmstrip({"": ramp(4)})), np.asarray(filmstrip({"truth": ramp(4)}))
    assert (labelled < 60).sum() > (blank < 60).sum()


def test_nothing_to_draw_is_an_error() -> None:
    for rows in ({}, {"x": ramp(1)[:0]}, {"x": ramp(1)[0]}):
        with pytest.raises(ValueError, match="at least one row"):
            filmstrip(rows)


def test_the_file_is_a_png_and_the_same_every_time(tmp_path: Path) -> None:
    first, second = (save_filmstrip(tmp_path / name, {"x": ramp(5)}, caption="a") for name in ("a.png", "b.png"))
    with Image.open(first) as image:
        assert image.format == "PNG"
    assert first.read_bytes() == second.read_bytes()
