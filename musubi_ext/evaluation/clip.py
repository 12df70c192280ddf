"""One decoded clip under evaluation, and what several metrics need from it, computed at most once."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.flow import sample_indices, speed
from musubi_ext.evaluation.masks import MaskSource, subject_masks
from musubi_ext.evaluation.orbit import frame_azimuths, subject_azimuths
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.truth import Degrees, Masks, Sweep, Truth
from musubi_ext.video import Frames


class Clip:
    """RGB frames (F, H, W, 3), the truth they are compared with, and shared gray frames, masks, flow and azimuths.

    `reference` is what motion is compared with: the truth's frames unless others (its VAE reconstruction) are given.
    Properties raise UnavailableError with the reason when the clip lacks what they need.
    """

    def __init__(
        self, frames: Frames, truth: Truth | None, masks: MaskSource | Masks, reference: Frames | None
    ) -> None:
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(f"frames: expected uint8 (F, H, W, 3), found {frames.dtype} {frames.shape}")
        if isinstance(masks, np.ndarray) and masks.shape != frames.shape[:3]:
            raise ValueError(f"masks: expected {frames.shape[:3]}, found {masks.shape}")
        self.frames = frames
        self._truth = truth
        self._masks = masks
        self._reference = reference
        self._speeds: dict[tuple[int, int], NDArray[np.float32]] = {}

    @property
    def resolution(self) -> str:
        """Width x height in pixels."""
        return f"{self.frames.shape[2]}x{self.frames.shape[1]}"

    @cached_property
    def gray(self) -> NDArray[np.uint8]:
        """Gray frames (F, H, W), OpenCV's weights (BT.601)."""
        return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.frames]).astype(np.uint8)

    @property
    def samples(self) -> NDArray[np.int64]:
        """Indices of the sixteen frames that the subject metrics look at."""
        return sample_indices(len(self.frames))

    def speed(self, first: int, second: int) -> NDArray[np.float32]:
        """Flow magnitude (H, W) in pixels between two frames; kept when it joins two sampled frames."""
        pair = (first, second)
        if pair in self._speeds:
            return self._speeds[pair]
        magnitude = speed(self.gray[first], self.gray[second])
        # At most fifteen maps are shared with the sampled metrics; keeping every map of a long HD clip fills memory.
        if pair in set(zip(self.samples[:-1].tolist(), self.samples[1:].tolist(), strict=True)):
            self._speeds[pair] = magnitude
        return magnitude

    @property
    def truth(self) -> Truth:
        """The truth, if it has this clip's frame count and size."""
        if self._truth is None:
            raise UnavailableError("no truth was given for this clip")
        if self._truth.frames.shape != self.frames.shape:
            raise UnavailableError(
                f"the clip has {self.frames.shape[0]} frames of {self.resolution}, its truth "
                f"{self._truth.frames.shape[0]} of {self._truth.frames.shape[2]}x{self._truth.frames.shape[1]}"
            )
        return self._truth

    @property
    def reference(self) -> Frames:
        """The frames whose first-to-last change counts as 1."""
        return self.truth.frames if self._reference is None else self._reference

    @cached_property
    def masks(self) -> Masks:
        """Subject masks (F, H, W); a frame where the subject was not found has an empty mask."""
        if isinstance(self._masks, np.ndarray):
            return self._masks
        return subject_masks(self._masks, self.frames, self.truth)

    @property
    def sweep(self) -> Sweep:
        """The truth's reference sweep, if it has one."""
        if self.truth.sweep is None:
            raise UnavailableError("the truth has no reference sweep to measure angles against")
        return self.truth.sweep

    @cached_property
    def subject_azimuth(self) -> Degrees:
        """Degrees swept so far (F,), seen on the subject alone."""
        return subject_azimuths(self.frames, self.masks, self.sweep)

    @cached_property
    def frame_azimuth(self) -> Degrees:
        """Degrees swept so far (F,), seen on whole frames, background included."""
        return frame_azimuths(self.frames, self.sweep)
