"""The subject without any weights: what stands out in a box or in the middle, followed by motion and appearance.

1. First frame: a prior (box or middle) and colours in turn explain each other (expectation maximisation as in
   C. Rother et al., "GrabCut", 2004, with smoothing in place of the cut: C. Rhemann et al., CVPR 2011); what moves
   unlike the middle is not the subject.
2. Forward: the last mask moved by the flow is the prior of the next frame, the colours of first and last frame judge.
3. Passes over the whole clip: colours learnt from all frames, the prior of a frame from both neighbours, so that
   neither the first frame nor the order of frames is special. This takes out what the forward run drifted by.

How well it does: docs/EVALUATION_RESULTS.md.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.flow import one_thread
from musubi_ext.evaluation.masks.appearance import Appearance, Codes, Map, codes, smoothed
from musubi_ext.evaluation.masks.motion import SMALLEST, Motion
from musubi_ext.evaluation.masks.regions import Box, check_box, pieces
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.truth import Masks
from musubi_ext.video import Frames

LONG_SIDE = 160  # pixels; larger clips are reduced to it and their masks enlarged again
ROUNDS = 8
PASSES = (-1, +1, -1)  # direction of each
MIDDLE = (0.5, 0.53)  # of width and height: a subject stands on the ground and so a little low
SPREAD = 0.25  # of width and height: at this distance from the middle the prior is even
CERTAIN = 4.0  # log odds: more than this no pixel's colour says alone
DOUBT = 2.0  # log odds against every pixel in the first frame: the subject is what its colours set apart
OUTSIDE = -8.0  # log odds of a pixel outside the given box
CORE = 2.0  # how sharply the middle of the prior is taken for the subject's motion
UNLIKE = 0.7  # weight of moving unlike the subject
UNLIKE_MOST = 3.0  # log odds
KEPT = 0.6  # weight of the prior that the neighbours give
KEPT_MOST = 5.0  # log odds
REACH = 2.5  # pixels of 64: Gaussian over a moved mask, for parts that turn into view
CLOSE = 0.03  # of the long side: gaps between parts narrower than about twice this are the subject's
FRAGMENT = 0.1  # of the heaviest piece
LOST = 0.1  # of the median area: less is noise
FULL = 0.9  # of the picture: a larger box shows no surroundings to learn
SMALL = 0.02  # of the picture: a subject that nobody pointed at is larger
CLEAR = 0.65  # mean log ratio inside the masks: below it colours cannot tell the subject (chosen on gray clips)
PALE = 0.25  # of the clip's median evidence inside the mask: below it the frame does not show the subject


def follow(frames: Frames, box: Box | None = None) -> Masks:
    """Masks (F, H, W) of the subject in uint8 RGB `frames` (F, H, W, 3), empty where it was not found.

    `box` (x0, y0, x1, y1) in pixels holds the subject in the first frame; without it, it is what stands out in the
    middle. The same frames give the same masks. Raises UnavailableError when nothing stands out clearly enough to be
    followed, ValueError for a box outside the frame.
    """
    height, width = frames.shape[1:3]
    if box is not None:
        check_box(box, height, width)
        if (box[2] - box[0]) * (box[3] - box[1]) > FULL * width * height:
            raise UnavailableError("the box leaves too little of the first frame outside to tell the subject from")
    with one_thread():
        small = _reduced(frames)
        scale = (small.shape[2] / width, small.shape[1] / height)
        masks = _Search(small, _prior(small.shape[1:3], box, scale), in_box=box is not None).masks()
        return _enlarged(masks, (width, height))


class _Search:
    """The clip at working size, what its pixels look like and how they move."""

    def __init__(self, frames: Frames, prior: Map, *, in_box: bool) -> None:
        self.frames, self.prior, self.in_box = frames, prior, in_box
        self.codes = [codes(frame) for frame in frames]
        self.motion = Motion.of(frames)
        self.long = max(frames.shape[1:3])
        self.kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(CLOSE * self.long) + 1,) * 2)

    def masks(self) -> Masks:
        """Masks (F, h, w). Raises UnavailableError when nothing stands out clearly enough to be followed."""
        masks = self._forward(self._first())
        for step in PASSES:
            masks = self._passed(masks, step)
        return self._checked(masks)

    def _checked(self, masks: Masks) -> Masks:
        advice = "" if self.in_box else "; give its box in the first frame"
        area, proof = self._proof(masks, self._learnt(masks))
        share = float(np.median(area[area > 0])) / masks[0].size if area.any() else 0.0
        if share < (0.0 if self.in_box else SMALL) or not area.any():
            raise UnavailableError(f"no subject stands out in the middle of the first frame{advice}")
        if (clear := float(np.median(proof[area > 0]))) < CLEAR:
            raise UnavailableError(
                f"the subject's colours are too much like its surroundings' to follow it "
                f"(log ratio {clear:.2f}, at least {CLEAR} is needed){advice if clear > 0 else ''}"
            )
        return masks

    def _first(self) -> NDArray[np.bool_]:
        """The subject in the first frame, from the prior alone."""
        weight = _odds_to_share(self.prior)
        core = _odds_to_share(CORE * (self.prior - 1))
        doubt = 0.0 if self.in_box else DOUBT
        mask = np.zeros(weight.shape, bool)
        for _ in range(ROUNDS):
            model = Appearance.fit(self.codes[0], weight)
            odds = self._looks(0, model, weight * core) + self.prior - doubt
            mask = self._parts(odds > 0, _odds_to_share(self.prior))
            weight = _odds_to_share(odds) * mask
        return mask

    def _forward(self, first: NDArray[np.bool_]) -> Masks:
        """Through the clip from the first mask, colours from the first and the last frame seen."""
        masks = np.zeros(self.frames.shape[:3], bool)
        masks[0] = last = first
        model = Appearance.fit(self.codes[0], first.astype(np.float64))
        for index in range(1, len(self.frames)):
            moved = self.motion.forward(index, last)
            masks[index] = self._near(index, model, moved)
            if masks[index].sum() >= LOST * first.sum():
                last = masks[index]
                model = Appearance.fit(self._gather([0, index]), masks[[0, index]].astype(np.float64))
        return masks

    def _passed(self, masks: Masks, step: int) -> Masks:
        """Every frame anew, from the colours of all frames and the masks of its neighbours, one of them new."""
        model = self._learnt(masks)
        masks = masks.copy()
        for index in range(len(masks))[::step]:
            masks[index] = self._near(index, model, self.motion.warped(index, masks))
        return self._seen(masks, model)

    def _seen(self, masks: Masks, model: Appearance) -> Masks:
        """Without the masks that are far too small, or whose pixels do not look like the subject."""
        area, proof = self._proof(masks, model)
        if not area.any():
            return masks
        typical = np.median(area[area > 0]), np.median(proof[area > 0])
        seen = (area >= LOST * typical[0]) & (proof > PALE * max(typical[1], 0.0))
        return masks & seen[:, None, None]

    def _learnt(self, masks: Masks) -> Appearance:
        return Appearance.fit(self._gather(range(len(masks))), masks.astype(np.float64))

    def _proof(self, masks: Masks, model: Appearance) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Area (F,) of each mask and mean evidence (F,) of the pixels in it, 0 where it is empty."""
        proof = [float(model.evidence(c)[m].mean()) if m.any() else 0.0 for c, m in zip(self.codes, masks, strict=True)]
        return masks.sum(axis=(1, 2)), np.array(proof)

    def _near(self, index: int, model: Appearance, moved: Map) -> NDArray[np.bool_]:
        """The subject in a frame, given where the neighbouring frames' masks have `moved` to."""
        near = np.asarray(cv2.GaussianBlur(moved, (0, 0), REACH * self.long / 64), np.float32)
        share = np.clip(near, 1e-3, 1 - 1e-3)
        prior = KEPT * np.clip(np.log(share / (1 - share)), -KEPT_MOST, KEPT_MOST)
        odds = np.asarray(self._looks(index, model, moved) + prior, np.float32)
        if index == 0 and self.in_box:
            odds = np.where(self.prior <= OUTSIDE, np.float32(OUTSIDE), odds).astype(np.float32)
        return self._parts(odds > 0, moved + 1e-3 * near)

    def _looks(self, index: int, model: Appearance, weight: NDArray[np.floating]) -> Map:
        """Log odds (H, W) by colour and motion, smoothed within the picture's edges."""
        odds = np.clip(model.evidence(self.codes[index]), -CERTAIN, CERTAIN)
        unlike = UNLIKE * np.maximum(self.motion.evidence(index, weight), -UNLIKE_MOST)
        return smoothed(self.frames[index], np.asarray(odds + unlike, np.float32), max(1, round(self.long / 64)))

    def _parts(self, candidate: NDArray[np.bool_], weight: NDArray[np.floating]) -> NDArray[np.bool_]:
        side = len(self.kernel) // 2
        padded = np.pad(candidate.astype(np.uint8), side)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, self.kernel)
        closed = closed[side : side + candidate.shape[0], side : side + candidate.shape[1]]
        return pieces(closed.astype(bool), weight, FRAGMENT)

    def _gather(self, indices: range | list[int]) -> Codes:
        return tuple(np.stack([self.codes[i][coding] for i in indices]) for coding in range(len(self.codes[0])))


def _prior(size: tuple[int, int], box: Box | None, scale: tuple[float, float]) -> Map:
    """Log odds (H, W) of the subject before a pixel is seen: high in the middle of the picture or of the box."""
    height, width = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    if box is None:
        away = ((x - MIDDLE[0]) ** 2 + (y - MIDDLE[1]) ** 2) / SPREAD**2
        return np.clip(2 - 2 * away, -5, 2).astype(np.float32)
    x0, x1 = (edge * scale[0] / width for edge in (box[0], box[2]))
    y0, y1 = (edge * scale[1] / height for edge in (box[1], box[3]))
    away = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return np.where(inside, np.clip(2 - 2 * away, -2, 2), OUTSIDE).astype(np.float32)


def _odds_to_share(odds: Map) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds.astype(np.float64), -30, 30))), dtype=np.float64)


def _reduced(frames: Frames) -> Frames:
    """Frames with a long side of at most `LONG_SIDE` and sides of at least `SMALLEST` pixels."""
    height, width = frames.shape[1:3]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(SMALLEST, round(width * scale)), max(SMALLEST, round(height * scale)))
    if size == (width, height):
        return frames
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]).astype(np.uint8)


def _enlarged(masks: Masks, size: tuple[int, int]) -> Masks:
    if masks.shape[2:0:-1] == size:
        return masks
    return np.stack([cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5 for mask in masks])
