"""One decoded clip under evaluation, and what several metrics need from it, computed at most once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.flow import Flow, Gray, magnitude, sample_indices
from musubi_ext.evaluation.masks import FoundMasks, MaskSource
from musubi_ext.evaluation.orbit import frame_azimuths, subject_azimuths
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.shared_flow import SharedFlow
from musubi_ext.evaluation.stream import PairStatistic, VideoFile, gray_of, scan
from musubi_ext.evaluation.subject import GIVEN, subject_of
from musubi_ext.evaluation.truth import Degrees, Masks, Sweep, Truth
from musubi_ext.video import Frames

if TYPE_CHECKING:
    from musubi_ext.evaluation.asked import Asked
    from musubi_ext.evaluation.features import ModelSource


class Clip:
    """RGB frames (F, H, W, 3), the truth they are compared with, and shared gray frames, masks, flow and azimuths.

    `reference` is what motion is compared with: the truth's frames unless others (its VAE reconstruction) are given.
    `asked` is what the video was asked to show, `models` says where learned weights are, `fps` is None for bare frames.
    Properties raise UnavailableError with the reason when the clip lacks what they need; a clip too long to be held
    lacks its frames, but not the sampled ones and not `over_pairs`.
    """

    def __init__(
        self,
        frames: Frames | VideoFile,
        truth: Truth | None = None,
        masks: MaskSource | Masks = MaskSource.COLOR,
        reference: Frames | None = None,
        *,
        asked: Asked | None = None,
        models: ModelSource | None = None,
        caption: str = "",
        fps: float | None = None,
        profile: Profile = Profile.EXACT,
        threads: int = 1,
        pairs: Sequence[PairStatistic] = (),
    ) -> None:
        self._video = frames
        if isinstance(frames, np.ndarray):
            if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
                raise ValueError(f"frames: expected uint8 (F, H, W, 3), found {frames.dtype} {frames.shape}")
            if isinstance(masks, np.ndarray) and masks.shape != frames.shape[:3]:
                raise ValueError(f"masks: expected {frames.shape[:3]}, found {masks.shape}")
        self._truth, self._masks, self._reference, self._asked, self._models = truth, masks, reference, asked, models
        self.caption, self.fps, self.profile = caption, fps, profile
        self._threads = threads
        self._planned = tuple(dict.fromkeys(pairs))  # what one pass over the frames is to answer
        self._pairs: dict[PairStatistic, NDArray[np.float64]] = {}
        self._sampled: Frames | None = None  # of a long clip
        self.looked_at_masks = False  # since it was last set to False: results name who found the subject

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(F, H, W, 3)."""
        count, height, width, channels = self._video.shape
        return count, height, width, channels

    @property
    def resolution(self) -> str:
        """Width x height in pixels."""
        return f"{self.shape[2]}x{self.shape[1]}"

    @property
    def frames(self) -> Frames:
        """All frames (F, H, W, 3); unavailable for a clip that is too long to be held."""
        self._read()
        if isinstance(self._video, VideoFile):
            raise self._video.refusal()
        return self._video

    @cached_property
    def gray(self) -> NDArray[np.uint8]:
        """Gray frames (F, H, W), OpenCV's weights (BT.601)."""
        gray = np.empty(self.frames.shape[:3], np.uint8)
        for frame, target in zip(self.frames, gray, strict=True):
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY, dst=target)
        return gray

    @property
    def samples(self) -> NDArray[np.int64]:
        """Indices of the sixteen frames that the subject metrics look at."""
        return sample_indices(self.shape[0])

    @property
    def sampled(self) -> Frames:
        """The sixteen sampled frames (16, H, W, 3); also of a long clip, so prefer it to `frames[samples]`."""
        self._read()
        if isinstance(self._video, np.ndarray):
            return self._video[self.samples]
        assert self._sampled is not None
        return self._sampled

    def over_pairs(self, statistic: PairStatistic) -> NDArray[np.float64]:
        """The statistic of each pair of consecutive frames, (F − 1,); one pass measures all that metrics declared."""
        if self.shape[0] < 2:
            raise UnavailableError("needs two frames, the clip has one")
        if statistic not in self._pairs:
            if statistic not in self._planned:
                self._planned, self._sampled = (*self._planned, statistic), None
            self._read()
            if isinstance(self._video, np.ndarray) and statistic not in self._pairs:
                self._pairs = scan(self.gray, self._planned, self.profile, self._threads)
        return self._pairs[statistic]

    def flow(self, first: int, second: int) -> Flow:
        """Flow (H, W, 2), x and y in pixels, from one frame to another; of a long clip only between sampled frames."""
        return self._flow.between(first, second, self._gray_at)

    def speed(self, first: int, second: int) -> NDArray[np.float32]:
        """Flow magnitude (H, W) in pixels between two frames."""
        return magnitude(self.flow(first, second))

    @property
    def truth(self) -> Truth:
        """The truth, if it has this clip's frame count and size."""
        if self._truth is None:
            raise UnavailableError("no truth was given for this clip")
        if self._truth.frames.shape != self.shape:
            raise UnavailableError(
                f"the clip has {self.shape[0]} frames of {self.resolution}, its truth "
                f"{self._truth.frames.shape[0]} of {self._truth.frames.shape[2]}x{self._truth.frames.shape[1]}"
            )
        return self._truth

    @property
    def reference(self) -> Frames:
        """The frames whose first-to-last change counts as 1."""
        return self.truth.frames if self._reference is None else self._reference

    @property
    def asked(self) -> Asked:
        """What the video was asked to show."""
        if self._asked is None:
            raise UnavailableError("what this clip was asked to show was not given")
        return self._asked

    @cached_property
    def models(self) -> ModelSource:
        """Where learned weights are: the folder given, else the local cache, without the network."""
        if self._models is not None:
            return self._models
        from musubi_ext.evaluation.features import ModelSource

        return ModelSource(None)

    @property
    def masks(self) -> Masks:
        """Subject masks (F, H, W); a frame where the subject was not found has an empty mask."""
        self.looked_at_masks = True
        return self.found_masks.masks

    @property
    def mask_provider(self) -> str:
        """Who found the subject."""
        return self.found_masks.provider

    @property
    def mask_coverage(self) -> float:
        """Share of frames in which the subject was found."""
        return self.found_masks.coverage

    def mask_conditions(self, licence: str) -> tuple[str, float | None, str]:
        """Provider, coverage and licence to state beside a value that used masks; the provider alone if none came."""
        try:
            masks = self.found_masks
        except UnavailableError:
            return self._masks.value if isinstance(self._masks, MaskSource) else GIVEN, None, licence
        return masks.provider, masks.coverage, "; ".join(filter(None, (licence, masks.licence)))

    @property
    def found_masks(self) -> FoundMasks:
        """The masks, who found them, how often and under which licence. A failed search is not tried again."""
        if isinstance(self._search, str):
            raise UnavailableError(self._search)
        return self._search

    @cached_property
    def _search(self) -> FoundMasks | str:
        """Or the reason, as text: an exception would hold the frames of its traceback, and they this clip."""
        try:
            return subject_of(self, self._masks)
        except UnavailableError as reason:
            return str(reason)

    @property
    def sweep(self) -> Sweep:
        """The truth's reference sweep, if it has one."""
        if self.truth.sweep is None:
            raise UnavailableError("the truth has no reference sweep to measure angles against")
        return self.truth.sweep

    @property
    def subject_azimuth(self) -> Degrees:
        """Degrees swept so far (F,), seen on the subject alone."""
        self.looked_at_masks = True
        return self._subject_azimuth

    @cached_property
    def _subject_azimuth(self) -> Degrees:
        return subject_azimuths(self.frames, self.masks, self.sweep)

    @cached_property
    def frame_azimuth(self) -> Degrees:
        """Degrees swept so far (F,), seen on whole frames, background included."""
        return frame_azimuths(self.frames, self.sweep)

    @cached_property
    def _flow(self) -> SharedFlow:
        return SharedFlow(self.shape, self.profile, self._threads)

    def _read(self) -> None:
        """Decode a file: its frames, or the sampled ones of a long clip; pairs of frames are measured meanwhile."""
        if isinstance(self._video, VideoFile) and self._sampled is None:
            self._pairs, frames = self._video.read(self._planned, self.profile, self._threads)
            if self._video.is_long:
                self._sampled = frames
            else:
                self._video = frames

    def _gray_at(self, index: int) -> Gray:
        self._read()
        if isinstance(self._video, VideoFile):
            places = np.flatnonzero(self.samples == index)
            if not len(places):
                raise self._video.refusal()
            return gray_of(self.sampled[places[0]])
        return np.asarray(self.gray[index])
