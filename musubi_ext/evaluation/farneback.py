"""Farnebäck's optical flow in two steps, so that what belongs to one frame is computed once and not for each neighbour.

Cites Farnebäck, "Two-Frame Motion Estimation Based on Polynomial Expansion" (SCIA 2003): each neighbourhood of a frame
is fitted by x'Ax + b'x + c (section 2), the displacement follows from how A and b differ between frames (sections 3, 4)
and is refined on a pyramid (section 5). With OpenCV's parameters, borders and pyramid, so that the flow is the one of
`cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)` up to the rounding of float32. Where frames are
partly identical, OpenCV's border there hangs on the signs of its rounding errors: means differ by some 1e-5 px.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Gray = NDArray[np.uint8]

LEVELS, SMALLEST = 3, 32  # of the pyramid; pixels of its smallest side
WINDOW, ITERATIONS = 15, 3
REACH, SIGMA = 5, 1.2  # of the neighbourhood's Gaussian weight, pixels
REGULAR = np.float32(1e-3)  # added to the determinant
BORDER = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # certainty of the outermost pixels
OUTSIDE = np.float32(-9)  # a place from which remap reads 0
STRIP = 64  # rows worked on at once: their arrays stay in the cache
ONE = np.ones(1, np.float32)


@dataclass(frozen=True)
class Expansion:
    """Coefficients of one frame, planes (5, h, w) from the coarsest level to the finest: ½y, ½x, ½yy, ½xx, ¼xy."""

    levels: tuple[Floats, ...]


def expand(gray: Gray, levels: int = LEVELS) -> Expansion:
    """The polynomial expansion (section 2) of a gray frame (H, W) on a pyramid of so many levels more; H, W ≥ 10."""
    height, width = gray.shape
    if min(height, width) < 2 * len(BORDER):
        raise ValueError(f"expected at least {2 * len(BORDER)} rows and columns, got {gray.shape}")
    buffers = _buffers(height, width)
    image, smooth = buffers.planes[0], buffers.planes[1]
    image[...] = gray
    expanded = []
    for level in range(_depth(height, width, levels), -1, -1):
        scale = 0.5**level
        sigma = (1 / scale - 1) / 2
        side = max(round(5 * sigma) | 1, 3)
        reduced = cv2.GaussianBlur(image, (side, side), sigma, dst=smooth, sigmaY=sigma)
        if level:
            reduced = cv2.resize(smooth, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
        expanded.append(_expanded(np.asarray(reduced, np.float32)))
    return Expansion(tuple(expanded))


def flow(first: Expansion, second: Expansion) -> Floats:
    """Displacement (2, H, W), x and y in pixels, that takes the first frame to the second."""
    found: Floats | None = None
    for own, other in zip(first.levels, second.levels, strict=True):
        _, height, width = own.shape
        buffers = _buffers(height, width)
        start = np.zeros((2, height, width), np.float32)
        if found is not None:
            for coarse, fine in zip(found, start, strict=True):
                cv2.resize(coarse, (width, height), dst=fine, interpolation=cv2.INTER_LINEAR)
            start *= 2
        found = start
        cv2.merge(list(other[:4]), buffers.merged)
        for _ in range(ITERATIONS):
            _equations(own, other[4], found, buffers)
            _solve(found, buffers)
    assert found is not None
    return found


@cache
def is_exact() -> bool:
    """Whether this OpenCV interpolates at exact places; before 5.0 it rounds them to 1/32 pixel, and so would the flow.

    There the flow is OpenCV's own, at its own speed.
    """
    ramp = np.arange(16, dtype=np.float32).repeat(16).reshape(16, 16).T.copy()
    place = np.full((1, 1), 7.01, np.float32)
    return abs(float(cv2.remap(ramp, place, place, cv2.INTER_LINEAR)[0, 0]) - 7.01) < 1e-4


class _Buffers:
    """Arrays of one frame size that are written anew in every step: fresh ones would cost as much as the arithmetic."""

    def __init__(self, height: int, width: int) -> None:
        rows = min(STRIP, height)
        self.planes = np.empty((5, height, width), np.float32)
        self.sums = np.empty((5, height, width), np.float32)
        self.merged = np.empty((height, width, 4), np.float32)
        self.columns = np.arange(width, dtype=np.float32)
        self.rows = np.arange(height, dtype=np.float32)[:, None]
        self.places = np.empty((2, rows, width), np.float32)
        self.warped = np.empty((rows, width, 4), np.float32)
        self.terms = np.empty((5, rows, width), np.float32)
        self.tests = np.empty((2, rows, width), np.bool_)
        self.certainty = _certainty(height)[:, None], _certainty(width)


_own = threading.local()


def _buffers(height: int, width: int) -> _Buffers:
    """This thread's; those of one pyramid are kept, another frame size replaces them."""
    held: dict[tuple[int, int], _Buffers] = _own.__dict__.setdefault("held", {})
    if (height, width) not in held:
        if len(held) > LEVELS:
            held.clear()
        held[height, width] = _Buffers(height, width)
    return held[height, width]


def _depth(height: int, width: int, levels: int) -> int:
    return sum(min(height, width) * 0.5**level >= SMALLEST for level in range(1, levels + 1))


def _certainty(length: int) -> Floats:
    """Squared weight (length,) of rows or columns: the equations are products of two weighted terms."""
    weight = np.ones(length, np.float32)
    weight[: len(BORDER)] = BORDER
    weight[-len(BORDER) :] = BORDER[::-1]
    return weight**2


@cache
def _kernels() -> tuple[Floats, ...]:
    """Three vertical filters (1, x, x² under the Gaussian), then six horizontal ones with the basis made orthogonal."""
    x = np.arange(-REACH, REACH + 1)
    weight = np.exp(-(x**2) / (2 * SIGMA**2))
    weight /= weight.sum()
    across, down = np.meshgrid(x, x)
    basis = np.stack([np.ones_like(across), across, down, across**2, down**2, across * down]).reshape(6, -1)
    gram = (basis * np.outer(weight, weight).ravel()) @ basis.T
    dual = np.linalg.inv(gram)
    linear, constant, square, mixed = dual[1, 1] / 2, dual[0, 3] / 2, dual[3, 3] / 2, dual[5, 5] / 4
    horizontal = (constant * weight, linear * weight, linear * x * weight,
                  square * weight, square * x**2 * weight, mixed * x * weight)  # fmt: skip
    return tuple(kernel.astype(np.float32) for kernel in (weight, x * weight, x**2 * weight, *horizontal))


def _expanded(image: Floats) -> Floats:
    """Coefficients (5, h, w) of one level (h, w)."""
    buffers = _buffers(*image.shape)
    zeroth, first, second, constant = buffers.sums[:4]
    k0, k1, k2, k_constant, k_y, k_x, k_yy, k_xx, k_xy = _kernels()
    for kernel, target in ((k0, zeroth), (k1, first), (k2, second)):
        _filter(image, ONE, kernel, target)
    y, x, yy, xx, xy = planes = np.empty((5, *image.shape), np.float32)
    _filter(zeroth, k_constant, ONE, constant)
    _filter(first, k_y, ONE, y)
    _filter(zeroth, k_x, ONE, x)
    _filter(second, k_yy, ONE, yy)
    _filter(zeroth, k_xx, ONE, xx)
    _filter(first, k_xy, ONE, xy)
    yy += constant
    xx += constant
    return planes


def _filter(image: Floats, across: Floats, down: Floats, target: Floats) -> None:
    cv2.sepFilter2D(image, cv2.CV_32F, across, down, dst=target, borderType=cv2.BORDER_REPLICATE)


def _equations(own: Floats, other_mixed: Floats, found: Floats, buffers: _Buffers) -> None:
    """Fill `planes` with G = A'A (three terms) and h = A'Δb (two) of each pixel, equations 9 and 10, strip by strip."""
    _, height, width = own.shape
    for top in range(0, height, STRIP):
        rows = slice(top, min(top + STRIP, height))
        size = rows.stop - top
        across, down = buffers.places[:, :size]
        warped, tests = buffers.warped[:size], buffers.tests[:, :size]
        b_y, b_x, a_yy, a_xx, a_xy = terms = buffers.terms[:, :size]
        dx, dy = found[:, rows]
        np.add(dx, buffers.columns, out=across)
        np.add(dy, buffers.rows[rows], out=down)
        outside = _outside(across, down, height, width, tests)
        across.reshape(-1)[outside] = OUTSIDE
        cv2.remap(buffers.merged, across, down, cv2.INTER_LINEAR, dst=warped, borderMode=cv2.BORDER_CONSTANT)
        cv2.remap(other_mixed, across, down, cv2.INTER_LINEAR, dst=a_xy, borderMode=cv2.BORDER_CONSTANT)
        cv2.split(warped, [b_y, b_x, a_yy, a_xx])
        np.subtract(own[:2, rows], terms[:2], out=terms[:2])
        terms[2:] += own[2:, rows]
        for term in terms[2:]:  # no mean with the other frame where there is none
            term.reshape(-1)[outside] *= 2
        product = across  # no longer needed
        for target, *pairs in ((b_y, (a_yy, dy), (a_xy, dx)), (b_x, (a_xy, dy), (a_xx, dx))):
            for left, right in pairs:
                target += np.multiply(left, right, out=product)
        g_yy, g_xy, g_xx, h_y, h_x = buffers.planes[:, rows]
        square = np.multiply(a_xy, a_xy, out=product)
        np.add(np.multiply(a_yy, a_yy, out=g_yy), square, out=g_yy)
        np.add(np.multiply(a_xx, a_xx, out=g_xx), square, out=g_xx)
        np.multiply(np.add(a_yy, a_xx, out=g_xy), a_xy, out=g_xy)
        np.add(np.multiply(a_yy, b_y, out=h_y), np.multiply(a_xy, b_x, out=product), out=h_y)
        np.add(np.multiply(a_xy, b_y, out=h_x), np.multiply(a_xx, b_x, out=product), out=h_x)
    _weigh_border(buffers)


def _outside(across: Floats, down: Floats, height: int, width: int, tests: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat indices of the places without four neighbours; OpenCV takes the coefficients there for 0."""
    any_test, test = tests
    np.less(across, 0, out=any_test)
    any_test |= np.greater_equal(across, width - 1, out=test)
    any_test |= np.less(down, 0, out=test)
    any_test |= np.greater_equal(down, height - 1, out=test)
    return np.flatnonzero(any_test)


def _weigh_border(buffers: _Buffers) -> None:
    rows, columns = buffers.certainty
    planes, edge = buffers.planes, len(BORDER)
    for side in (slice(edge), slice(-edge, None)):
        planes[:, side] *= rows[side]
        planes[:, :, side] *= columns[side]


def _solve(found: Floats, buffers: _Buffers) -> None:
    """Write d = G⁻¹h into `found`, G and h averaged over the window first (equation 12)."""
    for plane, mean in zip(buffers.planes, buffers.sums, strict=True):
        cv2.boxFilter(plane, cv2.CV_32F, (WINDOW, WINDOW), dst=mean, borderType=cv2.BORDER_REPLICATE)
    height = found.shape[1]
    for top in range(0, height, STRIP):
        rows = slice(top, min(top + STRIP, height))
        determinant, product = buffers.terms[:2, : rows.stop - top]
        g_yy, g_xy, g_xx, h_y, h_x = buffers.sums[:, rows]
        np.multiply(g_yy, g_xx, out=determinant)
        determinant -= np.multiply(g_xy, g_xy, out=product)
        determinant += REGULAR
        np.multiply(g_yy, h_x, out=g_yy)
        g_yy -= np.multiply(g_xy, h_y, out=product)
        np.divide(g_yy, determinant, out=found[0, rows])
        np.multiply(g_xx, h_y, out=g_xx)
        g_xx -= np.multiply(g_xy, h_x, out=product)
        np.divide(g_xx, determinant, out=found[1, rows])
