"""What a video was asked to show: objects along paths, a camera's moves, an orbit's direction.

Files are read by `asked_files`; `Asked.fitted` gives what was asked of each frame of a video, in its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.camera_path import View, view_matrix, view_of
from musubi_ext.orbits.captions import direction as captioned

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Size = tuple[int, int]  # width, height


class Pace(StrEnum):
    """Which point of a path belongs to which frame.

    `CLOCK`: by time, as in motion JSON; frame by frame when the video has as many frames as were asked for. `STRETCH`:
    the path spans the video, whatever its length, as Zo3T resamples it. `FRAME`: a point a frame, and what one of the
    two has more of is left out, as PoseTraj and DragAnything read them.
    """

    CLOCK = "clock"
    STRETCH = "stretch"
    FRAME = "frame"


@dataclass(frozen=True)
class AskedObject:
    """An object and its way: `path` (N, 2), x and y in pixels, `visible` and `depth` (N,); `box` in the first frame."""

    name: str
    path: Doubles
    box: Box | None = None
    visible: Flags | None = None
    depth: Doubles | None = None


@dataclass(frozen=True)
class CameraMove:
    """Views at K moments: `time` (K,) in seconds, increasing; `pan` (K, 2), `zoom`, `roll` as in `camera_path`."""

    time: Doubles
    pan: Doubles
    zoom: Doubles
    roll: Doubles


@dataclass(frozen=True)
class CameraPoses:
    """World-to-camera poses at K moments: `time` (K,) in seconds, `rotation` (K, 3, 3), `translation` (K, 3)."""

    time: Doubles
    rotation: Doubles
    translation: Doubles


@dataclass(frozen=True)
class Fitted:
    """What was asked of each of F frames, in the video's pixels; NaN where nothing was asked or it may be hidden."""

    objects: tuple[AskedObject, ...]
    view: View | None


@dataclass(frozen=True)
class Asked:
    """A request: objects, a camera, the direction of an orbit (+1 "right to left", −1 "left to right", None: any).

    `size` is that of the picture whose pixels are meant (None: the video's own), `fps` and `frames` those asked for.
    """

    objects: tuple[AskedObject, ...] = ()
    camera: CameraMove | CameraPoses | None = None
    direction: int | None = None
    size: Size | None = None
    fps: float | None = None
    frames: int | None = None
    pace: Pace = Pace.CLOCK

    @classmethod
    def load(cls, path: Path | str, *, size: Size | None = None, caption: str = "") -> Asked:
        """A request from motion JSON, `traj.npy` (Zo3T) or `{"id": [[x, y], …]}` (PoseTraj), and from a caption.

        `size` (width, height) is that of the picture whose pixels the last two mean; without it a `traj.npy` takes it
        from the `img.png` beside it, as Zo3T lays it out, and else they mean the video's. Raises UserError with every
        mistake of the file.
        """
        from musubi_ext.evaluation.asked_files import read_asked  # which builds what is defined here

        return replace(read_asked(Path(path), size), direction=captioned(caption) or None)

    def fitted(self, frames: int, size: Size, fps: float | None) -> Fitted:
        """The request for a video of so many frames, size and frame rate (None: unknown).

        Straight lines between the given points and between the camera's moments; widths and heights scale apart, as
        Zo3T does it; the view is what was asked against that of the first frame.
        """
        width, height = self.size or size
        scale = np.array([size[0] / width, size[1] / height])
        return Fitted(
            tuple(self._fitted(one, frames, scale, fps) for one in self.objects),
            self._view(frames, size, scale, fps) if isinstance(self.camera, CameraMove) else None,
        )

    def _moments(self, count: int, points: int, fps: float | None) -> Doubles:
        """For each of `count` frames the index into a path of `points`; NaN beyond what was asked."""
        index = np.arange(count, dtype=np.float64)
        if self.pace is Pace.STRETCH or (self.pace is Pace.CLOCK and count != points and not (fps and self.fps)):
            return index * (points - 1) / max(count - 1, 1)
        if self.pace is Pace.CLOCK and count != points and fps and self.fps:
            index = index * self.fps / fps
        index[index > points - 0.5] = np.nan  # half a frame's time late is still the last point's
        return np.minimum(index, points - 1)

    def _fitted(self, one: AskedObject, count: int, scale: Doubles, fps: float | None) -> AskedObject:
        at = self._moments(count, len(one.path), fps)
        asked = np.column_stack([_between(at, one.path[:, axis]) for axis in (0, 1)]) * scale
        if one.visible is not None:
            asked[_between(at, one.visible.astype(np.float64)) < 1] = np.nan
        box = one.box and (one.box[0] * scale[0], one.box[1] * scale[1], one.box[2] * scale[0], one.box[3] * scale[1])
        depth = None if one.depth is None else _between(at, one.depth)
        return replace(one, path=asked, box=box, visible=~np.isnan(asked[:, 0]), depth=depth)

    def _view(self, count: int, size: Size, scale: Doubles, fps: float | None) -> View:
        camera = self.camera
        assert isinstance(camera, CameraMove)
        assert self.fps
        assert self.frames
        time = self._moments(count, self.frames, fps) / self.fps
        pan = np.column_stack([np.interp(time, camera.time, camera.pan[:, axis]) for axis in (0, 1)]) * scale
        zoom, roll = np.interp(time, camera.time, camera.zoom), np.interp(time, camera.time, camera.roll)
        maps = np.stack([view_matrix(pan[i], zoom[i], roll[i], size) for i in range(count)])
        return view_of(maps @ np.linalg.inv(maps[0]), size)


def _between(at: Doubles, values: Doubles) -> Doubles:
    """`values` (N,) at fractional indices (F,), linearly; NaN at NaN."""
    return np.asarray(np.interp(at, np.arange(len(values)), values))


def caption_asks(caption: str) -> Asked:
    """What a caption asks for: the direction of its circle, if it names one."""
    return Asked(direction=captioned(caption) or None)
