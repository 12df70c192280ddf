"""What a rendered scene is: a subject of boxes on a two-tone ground before a lit backdrop, and the camera's path.

World axes: z up, the subject at the origin facing +x, lengths in subject heights (about 1). The camera's azimuth is
0 on +x and its position is `radius · (cos el cos az, cos el sin az, sin el)`. "right to left" means that the camera
itself moves to its left, which is a decreasing azimuth.

Light and start view are fixed by design, so that a captioned direction shows in the mean picture: every side of a
subject has its own brightness in the subject's frame, the backdrop brightens with the azimuth, the ground changes tone
along a line across the view. A miniature model cannot learn a direction that is a pure interaction (docs/LOG.md).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from musubi_ext.orbits.captions import CIRCLES, COLOURS, PANS, SHOTS, STILL, VIEWPOINTS, orbit_caption

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Domain = Literal["wild", "orbit", "static", "pan"]
Family = Literal["train", "heldout"]

SIDES = (1.0, 0.36, 0.72, 0.50)  # brightness of a subject's +x, −x, +y, −y sides
TOP = 0.86
KINDS: dict[Family, tuple[str, ...]] = {"train": ("box", "tower", "car", "van"), "heldout": ("truck", "bus", "steps")}
HUES = dict(zip(COLOURS, (0.0, 0.075, 0.15, 0.34, 0.5, 0.61, 0.77, 0.91), strict=True))
GROUND_TONES = {  # two tones of a ground, sRGB in [0, 1], little saturated so that the subject's hue stands alone
    "grass": ((0.44, 0.52, 0.38), (0.30, 0.37, 0.27)),
    "sand": ((0.70, 0.63, 0.50), (0.52, 0.46, 0.36)),
    "stone": ((0.56, 0.56, 0.58), (0.38, 0.38, 0.40)),
    "snow": ((0.86, 0.88, 0.90), (0.64, 0.66, 0.70)),
}


@dataclass(frozen=True)
class Scene:
    """Everything that stands still. `parts` are boxes (P, 2, 3): low and high corner in the subject's frame."""

    kind: str
    colour: str
    ground: str
    parts: Floats
    part_yaw: Floats  # (P,) radians, a joint's turn about the part's own centre
    shade: Floats  # (P,) brightness of a part against the subject's colour
    rgb: Floats  # (3,)
    ground_line: float  # radians, direction of the line between the two tones
    yaw: float  # radians, the subject's turn at the start
    elevation: float  # radians
    radius: float
    tint: Floats  # (3,) of the backdrop

    @property
    def height(self) -> float:
        """Top of the subject above the ground."""
        return float(self.parts[:, 1, 2].max())


@dataclass(frozen=True)
class Path:
    """What moves, per frame: camera azimuth, elevation (radians), radius; aim (F, 3) and subject position (F, 3)."""

    azimuth: Floats
    elevation: Floats
    radius: Floats
    aim: Floats
    subject: Floats
    caption_camera: str
    direction: int


def sample_scene(seed: int, family: Family = "train") -> Scene:
    """The scene of a seed; `heldout` takes its shapes from kinds that no training scene has."""
    rng = np.random.default_rng([seed, 0 if family == "train" else 1])
    kind = str(rng.choice(KINDS[family]))
    parts, yaws, shade = _SHAPES[kind](rng)
    colour = str(rng.choice(COLOURS))
    hue = HUES[colour] + rng.uniform(-0.015, 0.015)
    rgb = colorsys.hsv_to_rgb(hue % 1.0, rng.uniform(0.78, 0.95), rng.uniform(0.88, 1.0))
    return Scene(
        kind=kind,
        colour=colour,
        ground=str(rng.choice(list(GROUND_TONES))),
        parts=np.asarray(parts, np.float32).reshape(-1, 2, 3),
        part_yaw=np.asarray(yaws, np.float32),
        shade=np.asarray(shade, np.float32),
        rgb=np.asarray(rgb, np.float32),
        ground_line=float(np.pi / 2 + np.deg2rad(rng.uniform(-14, 14))),
        yaw=float(np.deg2rad(rng.uniform(-20, 20))),
        elevation=float(np.deg2rad(rng.uniform(20, 26))),
        radius=float(rng.uniform(2.7, 3.0)),
        tint=np.asarray(1.0 + rng.uniform(-0.12, 0.12, 3), np.float32),
    )


def caption(scene: Scene, path: Path) -> str:
    """The scene in the words of the real data set."""
    viewpoint = VIEWPOINTS[int(scene.elevation > np.deg2rad(23))]
    shot = SHOTS[1 if scene.radius < 2.8 else 0]
    return orbit_caption(viewpoint, shot, path.caption_camera, scene.colour, scene.kind, scene.ground)


def sample_path(scene: Scene, seed: int, domain: Domain, direction: int, frames: int, degrees: float = 90.0) -> Path:
    """The camera's and the subject's way through `frames` frames.

    `orbit`: constant angular speed over `degrees`, constant radius and elevation, subject centred.
    `wild`: 75–105° in the captioned direction at an uneven pace while the subject wanders, the aim drifts and the hand
    shakes. `static`: nothing moves. `pan`: the camera turns on the spot. All moves are zero in frame 0, so both
    directions of a seed share their first frame.
    """
    rng = np.random.default_rng([seed, 2 + direction, len(domain)])
    t = np.linspace(0.0, 1.0, frames)
    still = np.zeros((frames, 3))
    centre = still + np.array([0, 0, 0.45 * scene.height], np.float32)
    azimuth, elevation, radius = 0 * t, 0 * t, 0 * t
    aim: Doubles = 0 * still
    subject: Doubles = 0 * still
    if domain == "orbit":
        azimuth = -direction * np.deg2rad(degrees) * t
    elif domain == "wild":
        pace = t + 0.10 * rng.uniform(-1, 1) * np.sin(2 * np.pi * t) / np.pi
        azimuth = -direction * np.deg2rad(rng.uniform(75, 105)) * pace
        elevation = np.deg2rad(3.0) * _wander(rng, t, 1)[:, 0]
        radius = 0.10 * _wander(rng, t, 1)[:, 0]
        subject = _wander(rng, t, 3) * np.array([0.26, 0.26, 0.0], np.float32)
        aim = _wander(rng, t, 3) * np.array([0.14, 0.14, 0.12], np.float32) + _shake(rng, t) * 0.012
    elif domain == "pan":
        amount = direction * np.deg2rad(rng.uniform(14, 20)) * t * scene.radius
        aim = np.stack([0 * t, -amount, 0 * t], 1)
    return Path(
        azimuth=azimuth.astype(np.float32),
        elevation=(scene.elevation + elevation).astype(np.float32),
        radius=(scene.radius * (1 + radius)).astype(np.float32),
        aim=(centre + aim).astype(np.float32),
        subject=subject.astype(np.float32),
        caption_camera={"static": STILL, "pan": PANS[direction]}.get(domain, CIRCLES[direction]),
        direction=0 if domain == "static" else direction,
    )


def _wander(rng: np.random.Generator, t: Doubles, axes: int) -> Doubles:
    """Smooth curves (F, axes) of about ±1 that start at 0: a drift and two slow sines of random phase."""
    drift = rng.uniform(-0.6, 0.6, axes) * t[:, None]
    phase, amplitude = rng.uniform(0, 2 * np.pi, (2, axes)), rng.uniform(0.25, 0.6, (2, axes))
    sines = [
        a * (np.sin(2 * np.pi * f * t[:, None] + p) - np.sin(p))
        for f, p, a in zip((0.7, 1.3), phase, amplitude, strict=True)
    ]
    return np.asarray(drift + sines[0] + sines[1])


def _shake(rng: np.random.Generator, t: Doubles) -> Doubles:
    noise = rng.standard_normal((len(t), 3))
    return noise * np.minimum(1.0, 4 * t)[:, None]


def _box(rng: np.random.Generator) -> tuple[list[object], list[float], list[float]]:
    x, y, z = rng.uniform(0.38, 0.52), rng.uniform(0.34, 0.48), rng.uniform(0.6, 0.9)
    return [[[-x, -y, 0], [x, y, z]]], [0.0], [1.0]


def _tower(rng: np.random.Generator) -> tuple[list[object], list[float], list[float]]:
    x, y, z, s = rng.uniform(0.36, 0.5), rng.uniform(0.34, 0.46), rng.uniform(0.45, 0.6), rng.uniform(0.5, 0.7)
    turn = rng.uniform(-0.3, 0.3)  # the joint: the upper box is turned on the lower one
    top = z + rng.uniform(0.35, 0.5)
    return [[[-x, -y, 0], [x, y, z]], [[-s * x, -s * y, z], [s * x, s * y, top]]], [0.0, turn], [1.0, 0.92]


def _car(rng: np.random.Generator) -> tuple[list[object], list[float], list[float]]:
    x, y, z = rng.uniform(0.66, 0.8), rng.uniform(0.32, 0.4), rng.uniform(0.30, 0.38)
    back = rng.uniform(-0.55, -0.4) * x
    cabin = [[back, -0.88 * y, z], [back + rng.uniform(0.9, 1.1) * x, 0.88 * y, z + rng.uniform(0.24, 0.32)]]
    wheels = [_wheel(a * 0.58 * x, b * y) for a in (-1, 1) for b in (-1, 1)]
    return [[[-x, -y, 0.1], [x, y, z]], cabin, *wheels], [0.0] * 6, [1.0, 0.9] + [0.3] * 4


def _van(rng: np.random.Generator) -> tuple[list[object], list[float], list[float]]:
    x, y, z = rng.uniform(0.6, 0.72), rng.uniform(0.32, 0.4), rng.uniform(0.5, 0.64)
    nose = [[x, -y, 0.1], [x + rng.uniform(0.16, 0.24), y, rng.uniform(0.28, 0.36)]]
    wheels = [_wheel(a * 0.6 * x, b * y) for a in (-1, 1) for b in (-1, 1)]
    return [[[-x, -y, 0.1], [x, y, z]], nose, *wheels], [0.0] * 6, [1.0, 0.95] + [0.3] * 4


def _truck(rng: np.random.Generator) -> tuple[list[object], list[float], list[float]]:
    x, y = rng.uniform(0.62, 0.72), rng.uniform(0.32, 0.4)
    cab = [[0.2 * x, -y, 0.1], [x, y, rng.uniform(0.52, 0.64)]]
    bed = [[-x, -y, 0.1], [0.2 * x, y, rng.uniform(0.28, 0.36)]]
    wheels = [_wheel(a * 0.6 * x, b * y) for a in (-1, 1) for b in (-1, 1)]
    return [cab, bed, *wheels], [0.0] * 6, [1.0, 0.88] + [0.3] * 4


def _bus(rng: np.random.Generator) -> tuple[list[object], list[float], list[float]]:
    x, y, z = rng.uniform(0.64, 0.74), rng.uniform(0.32, 0.4), rng.uniform(0.5, 0.62)
    roof = [[-0.8 * x, -0.8 * y, z], [0.5 * x, 0.8 * y, z + 0.08]]
    wheels = [_wheel(a * 0.62 * x, b * y) for a in (-1, 1) for b in (-1, 1)]
    return [[[-x, -y, 0.1], [x, y, z]], roof, *wheels], [0.0] * 6, [1.0, 0.8] + [0.3] * 4


def _steps(rng: np.random.Generator) -> tuple[list[object], list[float], list[float]]:
    x, y, z = rng.uniform(0.4, 0.52), rng.uniform(0.36, 0.46), rng.uniform(0.24, 0.3)
    blocks = [[[-x, -y, k * z], [x - k * 0.62 * x, y, (k + 1) * z]] for k in range(3)]
    return list(blocks), [0.0] * 3, [1.0, 0.94, 0.88]


def _wheel(x: float, y: float) -> list[list[float]]:
    side = 0.045 if y > 0 else -0.045
    return [[x - 0.12, min(y - side, y + side), 0.0], [x + 0.12, max(y - side, y + side), 0.22]]


_SHAPES = {"box": _box, "tower": _tower, "car": _car, "van": _van, "truck": _truck, "bus": _bus, "steps": _steps}
