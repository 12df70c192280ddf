"""First and last frames: opened safely, brought to the request's size.

Untrusted files: only PNG, JPEG and WebP decoders are offered to Pillow, and the pixel count is read from the header
and capped before a single pixel is decoded.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from musubi_ext.errors import Problems

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000  # a 50-megapixel photograph; 150 MB once decoded
MIN_SIDE = 16  # one latent patch: a smaller picture carries nothing the model could keep

ImageSource: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"


def load_image(source: object, where: str, problems: Problems) -> Image.Image | None:
    """Decode `source` (a file, a PIL image or a uint8 RGB array (H, W, 3)) to upright RGB.

    What is wrong with it is added to `problems` under the name `where` (the field), and None is returned.
    """
    if isinstance(source, Image.Image):
        return _sized(_flatten(source), where, problems)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            problems.add(where, f"expected a uint8 array (H, W, 3), found {source.dtype} {source.shape}")
            return None
        return _sized(Image.fromarray(source), where, problems)
    if not isinstance(source, (str, Path)):
        problems.add(where, f"expected an image file, a PIL image or a uint8 array, found {type(source).__name__}")
        return None
    return _open(Path(source), where, problems)


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image` scaled (Lanczos) until it covers `size` (width, height), then cropped about its centre."""
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def fingerprint(image: Image.Image) -> str:
    """Hex SHA-256 of the decoded picture: its width, its height and its RGB bytes."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


def _open(path: Path, where: str, problems: Problems) -> Image.Image | None:
    """Open and decode one file; every way in which it can fail is one line in `problems`."""
    named = f"{where} {path}"
    if not path.is_file():
        found = "is a directory" if path.is_dir() else "no such file"
        problems.add(named, found, "give a PNG, JPEG or WebP file")
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if not _few_pixels(image.size, named, problems):
                    return None
                return _sized(_flatten(image), named, problems)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problems.add(named, f"more than {MAX_PIXELS:,} pixels", "scale it down first")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
        problems.add(named, f"not a readable PNG, JPEG or WebP image: {_reason(error)}", "save it again as PNG")
    return None


def _reason(error: Exception) -> str:
    """Pillow's reason, without the path that our own message already gives."""
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)


def _few_pixels(size: tuple[int, int], where: str, problems: Problems) -> bool:
    """Whether width × height stays under the cap; known from the header alone."""
    width, height = size
    if width * height > MAX_PIXELS:
        problems.add(where, f"{width}x{height} is more than {MAX_PIXELS:,} pixels", "scale it down first")
        return False
    return True


def _flatten(image: Image.Image) -> Image.Image:
    """Upright (EXIF) RGB; transparency is laid over white, as every viewer shows it."""
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _sized(image: Image.Image, where: str, problems: Problems) -> Image.Image | None:
    """`image`, unless it is too small or too large to be a first frame."""
    if min(image.size) < MIN_SIDE:
        problems.add(where, f"{image.width}x{image.height} is too small", f"both sides at least {MIN_SIDE} pixels")
        return None
    return image if _few_pixels(image.size, where, problems) else None
