"""Which size a clip is resized to: musubi-tuner's buckets, so both trainers group the same clips.

Cites `musubi_tuner/dataset/bucket.py`, `BucketSelector` (v0.3.4).
"""

from __future__ import annotations

import math

from musubi_ext.orbits.schema import STEP

Size = tuple[int, int]  # width, height in pixels


def bucket_sizes(resolution: Size) -> list[Size]:
    """Sizes of about the area of `resolution`, sides divisible by 16, from half its square's side up, sorted."""
    area = resolution[0] * resolution[1]
    side = math.isqrt(area)
    widths = range(max(side // 2 // STEP * STEP, STEP), side + STEP, STEP)
    pairs = [(width, area // width // STEP * STEP) for width in widths]
    pairs = [pair for pair in pairs if min(pair) >= STEP]
    return sorted({*pairs, *((height, width) for width, height in pairs)})


def choose_bucket(source: Size, resolution: Size, *, enable_bucket: bool, no_upscale: bool) -> Size:
    """The size (width, height) that a clip of size `source` is resized to cover and cropped to.

    Without buckets it is `resolution`. With them it is the bucket of nearest aspect ratio (the first in sorted order on
    a tie), unless `no_upscale` and the clip is no larger than the area: then its own size, rounded down to 16.
    """
    if not enable_bucket:
        return resolution
    width, height = source
    if no_upscale and width * height <= resolution[0] * resolution[1] and min(source) >= STEP:
        return width // STEP * STEP, height // STEP * STEP
    return min(bucket_sizes(resolution), key=lambda size: abs(size[0] / size[1] - width / height))
