"""Pixels of a scene by casting rays at boxes, ground and backdrop: exact depth and masks, colours with 2×2 samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musubi_ext.orbits.scenes import GROUND_TONES, SIDES, TOP, Floats, Scene

GROUND_RADIUS = 3.2  # the backdrop is a cylinder of this radius about the origin
FOCAL = 1.06  # focal length in image widths
UP = np.array([0, 0, 1], np.float32)


@dataclass(frozen=True)
class Camera:
    """Pinhole cameras of F frames, OpenCV axes (x right, y down, z ahead).

    `rotation` (F, 3, 3) and `position` (F, 3): x_camera = rotation · (x_world − position).
    """

    rotation: Floats
    position: Floats

    @property
    def pose(self) -> Floats:
        """World-to-camera matrices (F, 4, 4)."""
        pose = np.tile(np.eye(4, dtype=np.float32), (len(self.position), 1, 1))
        pose[:, :3, :3] = self.rotation
        pose[:, :3, 3] = -np.einsum("fij,fj->fi", self.rotation, self.position)
        return pose


def intrinsics(width: int, height: int) -> Floats:
    """K (3, 3) in pixels; pixel centres lie at integer + 0.5."""
    focal = FOCAL * width
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)


def look_at(position: Floats, target: Floats) -> Camera:
    """Cameras at `position` (F, 3) that look at `target` (F, 3) with z up."""
    ahead = target - position
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    right = np.cross(ahead, UP)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(ahead, right)
    return Camera(np.stack([right, down, ahead], axis=1).astype(np.float32), position.astype(np.float32))


def rays(camera: Camera, width: int, height: int, samples: int) -> Floats:
    """World ray directions (F, H·s, W·s, 3) with unit depth along the camera's axis: t is depth."""
    k = intrinsics(width, height)
    u = ((np.arange(width * samples) + 0.5) / samples - k[0, 2]) / k[0, 0]
    v = ((np.arange(height * samples) + 0.5) / samples - k[1, 2]) / k[1, 1]
    directions = np.stack([*np.meshgrid(u, v), np.ones((len(v), len(u)))], axis=-1).astype(np.float32)
    turned = np.matmul(directions.reshape(1, -1, 3), camera.rotation)
    return np.asarray(turned.reshape(-1, len(v), len(u), 3), np.float32)


def cast(
    scene: Scene, camera: Camera, subject: Floats, directions: Floats, textured: bool
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Colour (F, h, w, 3) in [0, 1], depth (F, h, w) and subject mask (F, h, w) of each ray."""
    colour, depth = _surroundings(scene, camera.position, directions, textured)
    mask = np.zeros(depth.shape, bool)
    for frame in range(len(depth)):
        rows, columns = _window(scene, camera, frame, subject[frame], depth.shape[1:])
        window = directions[frame, rows, columns].reshape(-1, 3)
        hit, near, paint = _boxes(scene, camera.position[frame] - subject[frame], window, textured)
        shape = depth[frame, rows, columns].shape
        hit = hit.reshape(shape)
        colour[frame, rows, columns][hit] = paint.reshape(*shape, 3)[hit]
        depth[frame, rows, columns][hit] = near.reshape(shape)[hit]
        mask[frame, rows, columns] = hit
    return colour, depth, mask


def corners(scene: Scene, subject: Floats) -> Floats:
    """World corners (F, P, 8, 3) of every box: four at its low z, then four at its high z."""
    low, high = scene.parts[:, 0], scene.parts[:, 1]
    unit = np.array([[x, y, z] for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))], np.float32)
    local = low[:, None] + unit * (high - low)[:, None]
    centre = ((low + high) / 2)[:, None]
    turned = np.einsum("pij,pkj->pki", _yaw(scene.part_yaw), local - centre) + centre
    world = turned @ _yaw(np.array([scene.yaw], np.float32))[0].T
    return np.asarray(world[None] + subject[:, None, None], np.float32)


def _window(scene: Scene, camera: Camera, frame: int, subject: Floats, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and columns that the subject can cover, so that box tests touch nothing else."""
    points = corners(scene, subject[None])[0].reshape(-1, 3) - camera.position[frame]
    seen = points @ camera.rotation[frame].T
    height, width = shape
    k = intrinsics(width, height)
    pixels = seen[:, :2] / np.maximum(seen[:, 2:], 1e-3) * k[0, 0] + k[:2, 2]
    low, high = np.floor(pixels.min(0)).astype(int), np.ceil(pixels.max(0)).astype(int) + 1
    return (
        slice(*np.clip([low[1], high[1]], 0, height).tolist()),
        slice(*np.clip([low[0], high[0]], 0, width).tolist()),
    )


def _boxes(
    scene: Scene, origin: Floats, directions: Floats, textured: bool
) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Nearest box hit of rays (N, 3) by the slab test: hit (N,), depth (N,), colour (N, 3)."""
    into = _yaw(np.array([-scene.yaw], np.float32))[0]
    origin, directions = into @ origin, directions @ into.T
    best = np.full(len(directions), np.inf, np.float32)
    light = np.zeros(len(directions), np.float32)
    faces = np.array([SIDES[1], SIDES[3], 0.2, SIDES[0], SIDES[2], TOP], np.float32)  # −x −y −z +x +y +z
    for (low, high), yaw, shade in zip(scene.parts, scene.part_yaw, scene.shade, strict=True):
        turn = _yaw(np.array([-yaw], np.float32))[0]
        centre, half = (low + high) / 2, (high - low) / 2
        start, ray = turn @ (origin - centre), directions @ turn.T
        with np.errstate(divide="ignore", invalid="ignore"):
            middle, reach = -start / ray, half / np.abs(ray)
        enter, leave = middle - reach, middle + reach
        axis = np.argmax(enter, axis=1)
        near = np.take_along_axis(enter, axis[:, None], 1)[:, 0]
        hit = (near < leave.min(axis=1)) & (near > 0) & (near < best)
        side = axis + 3 * (np.take_along_axis(ray, axis[:, None], 1)[:, 0] < 0)
        best = np.where(hit, near, best)
        value = shade * faces[side]
        if textured:
            value = value * _grain(start + ray * near[:, None], 7.0)
        light = np.where(hit, value, light)
    return np.isfinite(best), best, light[:, None] * scene.rgb


def _surroundings(scene: Scene, position: Floats, directions: Floats, textured: bool) -> tuple[Floats, Floats]:
    """Ground inside its radius, backdrop beyond: colour (F, h, w, 3) and depth (F, h, w)."""
    p = position[:, None, None]
    dx, dy, dz = np.moveaxis(directions, -1, 0)
    a = dx * dx + dy * dy
    b = p[..., 0] * dx + p[..., 1] * dy
    c = p[..., 0] ** 2 + p[..., 1] ** 2 - GROUND_RADIUS**2
    wall = (-b + np.sqrt(np.maximum(b * b - a * c, 0))) / a
    with np.errstate(divide="ignore"):
        floor = np.where(dz < 0, -p[..., 2] / dz, np.inf)
    on_floor = floor < wall
    depth = np.where(on_floor, floor, wall).astype(np.float32)
    x, y = p[..., 0] + depth * dx, p[..., 1] + depth * dy
    light, dark = (np.array(tone, np.float32) for tone in GROUND_TONES[scene.ground])
    beyond = np.cos(scene.ground_line) * y - np.sin(scene.ground_line) * x > 0
    ground = np.where(beyond[..., None], dark, light)
    sky = (0.60 + 0.28 * y / GROUND_RADIUS)[..., None] * scene.tint
    if textured:
        ground = ground * _grain(np.stack([x, y, 0 * x], -1), 3.0)[..., None]
        sky = sky * _grain(np.stack([x, y, p[..., 2] + depth * dz], -1), 2.0)[..., None]
    return np.where(on_floor[..., None], ground, sky).astype(np.float32), depth


def _grain(points: Floats, frequency: float) -> Floats:
    """A fixed checker with uneven cells, 0.75–1.15, as a function of position (…, 3)."""
    cells = np.floor(points * frequency).astype(np.int64)
    mixed = (cells[..., 0] * 73856093) ^ (cells[..., 1] * 19349663) ^ (cells[..., 2] * 83492791)
    return np.asarray(0.75 + 0.4 * ((mixed * 2654435761 >> 8) & 0xFF) / 255, np.float32)


def _yaw(angles: Floats) -> Floats:
    """Rotations about z (N, 3, 3) by `angles` (N,) radians."""
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    one = zero + 1
    return np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).reshape(-1, 3, 3).astype(np.float32)
