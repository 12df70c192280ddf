"""Pictures from strangers: decoded safely, upright, cropped and never stretched."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musubi_ext.errors import Problems
from musubi_ext.generation.images import MAX_PIXELS, cover, fingerprint, load_image


def problem(source: object) -> str:
    problems = Problems()
    assert load_image(source, "first", problems) is None
    assert len(problems.found) == 1
    return problems.found[0]


def loaded(source: object) -> Image.Image:
    problems = Problems()
    image = load_image(source, "first", problems)
    assert problems.found == []
    assert image is not None
    return image


def declared_png(path: Path, width: int, height: int) -> Path:
    """A PNG whose header claims a size that its data do not have: only reading the header is free."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_the_three_formats_are_read(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (32, 48), "red").save(tmp_path / f"a.{suffix}")
    image = loaded(tmp_path / f"a.{suffix}")
    assert (image.mode, image.size) == ("RGB", (32, 48))


def test_what_is_not_a_picture_is_refused_by_name(tmp_path: Path) -> None:
    text, empty, gif = tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.gif"
    text.write_text("<svg/>")
    empty.touch()
    Image.new("RGB", (32, 32)).save(gif)
    for path in (text, empty, gif):
        assert str(path) in problem(path)
        assert "not a readable PNG, JPEG or WebP image" in problem(path)
    assert "no such file" in problem(tmp_path / "missing.png")
    assert "is a directory" in problem(tmp_path)
    assert "found int" in problem(3)


def test_a_damaged_picture_is_refused(tmp_path: Path, picture: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(picture.read_bytes()[:2000])
    assert "not a readable" in problem(damaged)


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_pixels_are_capped_from_the_header(tmp_path: Path, side: int) -> None:
    assert f"{MAX_PIXELS:,} pixels" in problem(declared_png(tmp_path / "bomb.png", side, side))


def test_a_picture_of_a_few_pixels_is_refused() -> None:
    assert "too small" in problem(np.zeros((8, 100, 3), np.uint8))
    assert "float32" in problem(np.zeros((64, 64, 3), np.float32))


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert loaded(tmp_path / "turned.jpg").size == (20, 40)


def test_transparency_lies_over_white() -> None:
    assert loaded(Image.new("RGBA", (16, 16), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_cover_crops_about_the_centre_and_does_not_stretch() -> None:
    stripes = np.zeros((32, 96, 3), np.uint8)
    stripes[:, 32:64] = 255  # the middle third of a wide picture
    assert np.asarray(cover(Image.fromarray(stripes), (32, 32))).min() == 255


def test_the_fingerprint_is_of_the_pixels(picture: Path, tmp_path: Path) -> None:
    image = loaded(picture)
    image.save(tmp_path / "same.webp", lossless=True)
    assert fingerprint(loaded(tmp_path / "same.webp")) == fingerprint(image)
    assert fingerprint(image.transpose(Image.Transpose.ROTATE_90)) != fingerprint(image)
