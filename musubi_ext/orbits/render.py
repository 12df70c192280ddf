"""Rendered clips with exact truth: masks, depth, poses, 3D boxes, trajectories, and a sweep around the subject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from musubi_ext.orbits.raycast import Camera, cast, corners, intrinsics, look_at, rays
from musubi_ext.orbits.scenes import Domain, Family, Floats, Scene, caption, sample_path, sample_scene
from musubi_ext.orbits.scenes import Path as CameraPath
from musubi_ext.storage import atomic_path, write_text
from musubi_ext.video import Frames, write_mp4

Look = Literal["plain", "textured"]
FPS = 16.0
SWEEP = np.arange(-135, 136, 3)  # degrees, signed like `Clip.azimuth`


@dataclass(frozen=True)
class Clip:
    """One rendered clip. F frames, P boxes; lengths in world units, angles in degrees."""

    frames: Frames  # uint8 (F, H, W, 3)
    mask: NDArray[np.bool_]  # (F, H, W) the subject's pixels
    depth: Floats  # (F, H, W) along the camera's axis
    pose: Floats  # (F, 4, 4) world to camera
    intrinsics: Floats  # (3, 3)
    boxes: Floats  # (F, P, 8, 3) world corners
    subject: Floats  # (F, 3) world
    azimuth: Floats  # (F,) degrees swept, + = "right to left"
    direction: int  # +1 right to left, −1 left to right, 0 still
    caption: str


def render(
    seed: int,
    domain: Domain = "orbit",
    direction: int = +1,
    *,
    size: tuple[int, int] = (64, 64),
    frames: int = 17,
    look: Look = "plain",
    family: Family = "train",
) -> Clip:
    """The clip of a seed: the same arguments give the same bits. `size` is (width, height)."""
    scene = sample_scene(seed, family)
    path = sample_path(scene, seed, domain, direction, frames)
    camera = _cameras(path)
    picture, mask, depth = _picture(scene, camera, path.subject, size, look)
    return Clip(
        frames=picture,
        mask=mask,
        depth=depth,
        pose=camera.pose,
        intrinsics=intrinsics(*size),
        boxes=corners(scene, path.subject),
        subject=path.subject,
        azimuth=-np.rad2deg(path.azimuth),
        direction=path.direction,
        caption=caption(scene, path),
    )


def sweep(
    seed: int, *, size: tuple[int, int] = (64, 64), look: Look = "plain", family: Family = "train"
) -> tuple[Frames, NDArray[np.bool_], Floats]:
    """The still scene from all around: frames (A, H, W, 3), masks (A, H, W), signed azimuths (A,) in degrees."""
    scene = sample_scene(seed, family)
    path = sample_path(scene, seed, "static", +1, len(SWEEP))
    around = CameraPath(**{**vars(path), "azimuth": np.deg2rad(-SWEEP).astype(np.float32)})
    picture, mask, _ = _picture(scene, _cameras(around), path.subject, size, look)
    return picture, mask, SWEEP.astype(np.float32)


def write_dataset(
    out: Path | str,
    count: int,
    *,
    domain: Domain = "orbit",
    seed: int = 0,
    look: Look = "plain",
    size: tuple[int, int] = (64, 64),
    frames: int = 17,
    family: Family = "train",
    with_sweep: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write `count` clips as NAME.mp4 + NAME.txt + NAME.npz to `out`; directions alternate. Returns the mp4 paths.

    Scene i has seed `seed + i`. A clip whose three files exist is not rendered again.
    """
    folder = Path(out)
    written = []
    for index in range(count):
        direction = +1 if index % 2 == 0 else -1
        video = folder / f"{domain}_{family}_{seed + index:06d}_{'rl' if direction > 0 else 'lr'}.mp4"
        written.append(video)
        if not all(video.with_suffix(suffix).exists() for suffix in (".mp4", ".txt", ".npz")):
            clip = render(seed + index, domain, direction, size=size, frames=frames, look=look, family=family)
            _write_truth(
                video.with_suffix(".npz"),
                clip,
                sweep(seed + index, size=size, look=look, family=family) if with_sweep else None,
            )
            write_text(video.with_suffix(".txt"), clip.caption + "\n")
            write_mp4(video, clip.frames, FPS, crf=6, pix_fmt="yuv444p")
        if progress:
            progress(index + 1)
    return written


def _write_truth(path: Path, clip: Clip, around: tuple[Frames, NDArray[np.bool_], Floats] | None) -> None:
    arrays = {name: value for name, value in vars(clip).items() if name != "caption"}
    if around:
        arrays |= dict(zip(("sweep_frames", "sweep_mask", "sweep_azimuth"), around, strict=True))
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _cameras(path: CameraPath) -> Camera:
    flat = np.cos(path.elevation)
    offset = np.stack([flat * np.cos(path.azimuth), flat * np.sin(path.azimuth), np.sin(path.elevation)], 1)
    target = path.aim[:1]  # the path circles the first aim; later aims only turn the camera
    return look_at((target + path.radius[:, None] * offset).astype(np.float32), path.aim)


def _picture(
    scene: Scene, camera: Camera, subject: Floats, size: tuple[int, int], look: Look
) -> tuple[Frames, NDArray[np.bool_], Floats]:
    """Frames from 2×2 samples a pixel; mask and depth from the ray through each pixel's centre."""
    textured = look == "textured"
    colour, _, _ = cast(scene, camera, subject, rays(camera, *size, samples=2), textured)
    _, depth, mask = cast(scene, camera, subject, rays(camera, *size, samples=1), textured)
    f, h, w, _ = colour.shape
    mean = colour.reshape(f, h // 2, 2, w // 2, 2, 3).mean(axis=(2, 4))
    return np.round(np.clip(mean, 0, 1) * 255).astype(np.uint8), mask, depth
