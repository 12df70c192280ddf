"""How well orbits, camera moves and objects' paths are measured: pictures whose motion is known exactly.

python benchmarks/motion_metrics.py    # renders, measures, writes docs/EVALUATION_RESULTS.md

Orbits are the renderer's. Camera moves are known views of a rendered still. Objects are rendered subjects that move
before a still camera; what is asked of them is the way of a point on their surface. Seeds begin at 40,000, where no
constant was chosen.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from subject_masks import BLUR, GRAIN, ROOT, SPOILS, Job, start_file
from tables import insert, machine, table

from musubi_ext.evaluation.asked import Asked, AskedObject, CameraMove
from musubi_ext.evaluation.camera_path import view_matrix
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.orbits.raycast import Camera, cast, look_at, rays
from musubi_ext.orbits.render import intrinsics, render
from musubi_ext.orbits.scenes import sample_path, sample_scene
from musubi_ext.video import Frames

FIRST_SEED = 40_000
COUNT, FPS, SIDE = 17, 16.0, 128
ORBIT = ("orbit_direction", "orbit_swept_angle")
CAMERA = ("camera_pan_error", "camera_zoom_error", "camera_roll_error")
MOVES = {"pan": (1, 0, 0), "zoom": (0, 1, 0), "roll": (0, 0, 1), "all three": (1, 1, 1)}

Values = dict[str, float | None]


def measured(frames: Frames, names: Sequence[str], asked: Asked | None = None, spoil: str = "") -> Values:
    """Metric → value, None where it is unavailable."""
    results = evaluate(SPOILS[spoil](frames), metrics=names, masks="flow", asked=asked, threads=1)
    return {name: results[name].value for name in names}


@dataclass(frozen=True)
class Circled:
    """A rendered clip: its true direction and degrees, and what was found."""

    job: Job
    direction: int
    degrees: float
    found: Values


def circled(job: Job, spoil: str) -> Circled:
    cv2.setNumThreads(1)
    clip = job.clip()
    degrees = abs(float(clip.azimuth[-1] - clip.azimuth[0]))
    turns = job.domain in ("orbit", "wild")
    return Circled(job, clip.direction if turns else 0, degrees, measured(clip.frames, ORBIT, spoil=spoil))


ORBIT_HEAD = ("clips", "number", "measured", "direction right", "wrong way round", "angle error, median [quartiles]")


def orbit_row(name: str, group: Sequence[Circled]) -> list[str]:
    """One line: of the clips with a direction how many are right; errors of the angle in degrees."""
    found = [(one, one.found["orbit_direction"]) for one in group if one.found["orbit_direction"] is not None]
    right = sum(value == one.direction for one, value in found)
    reversed_ = sum(value == -one.direction != 0 for one, value in found)
    angles = [(one, one.found["orbit_swept_angle"]) for one, _ in found]
    errors = [abs(value - one.degrees) for one, value in angles if value is not None]
    return [name, str(len(group)), str(len(found)), f"{right} of {len(found)}", str(reversed_), spread(errors, "°", 1)]


def spread(values: Sequence[float], unit: str, digits: int) -> str:
    """Median [quartiles]."""
    if not values:
        return "–"
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def orbit_report(runs: dict[str, list[Circled]]) -> str:
    """Groups of the plain run, and the spoiled one as a whole."""
    plain = next(iter(runs.values()))
    rows = [orbit_row(name, group) for name, group in runs.items()]
    for domain, look in product(("orbit", "wild", "pan", "static"), ("textured", "plain")):
        rows.append(orbit_row(f"{domain}, {look}", [o for o in plain if (o.job.domain, o.job.look) == (domain, look)]))
    return table(ORBIT_HEAD, rows)


def viewed(seed: int, move: str) -> tuple[Values, Values]:
    """Errors of a clip that shows what was asked, and of one that stands still, which are the size of the move."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    pan, zoom, roll = np.array(MOVES[move]) * [1, 1, 1]
    end = (
        rng.uniform(10, 25, 2) * rng.choice([-1, 1], 2) * pan,
        rng.uniform(1.1, 1.3) ** zoom,
        rng.uniform(5, 15) * roll,
    )
    still = render(seed, size=(2 * SIDE, 2 * SIDE), frames=1, look="textured").frames[0]
    share = np.linspace(0, 1, COUNT)
    pans, zooms, rolls = share[:, None] * end[0], end[1] ** share, share * end[2]
    asked = Asked(camera=CameraMove(share, pans, zooms, rolls), size=(SIDE, SIDE), fps=COUNT - 1.0, frames=COUNT)
    shown = [_window(still, *of) for of in zip(pans, zooms, rolls, strict=True)]
    frames = np.stack(shown)
    return measured(frames, CAMERA, asked), measured(frames[:1].repeat(COUNT, 0), CAMERA, asked)


def _window(still: Frames, pan: np.ndarray, zoom: float, roll: float) -> Frames:
    """The middle of a picture through a view."""
    into = np.array([[1, 0, -SIDE / 2], [0, 1, -SIDE / 2], [0, 0, 1.0]])
    seen = view_matrix(pan, zoom, roll, (SIDE, SIDE)) @ into
    return np.asarray(cv2.warpPerspective(still, seen, (SIDE, SIDE), flags=cv2.INTER_CUBIC), np.uint8)


def view_report(clips: dict[str, list[tuple[Values, Values]]]) -> str:
    """A line for each kind of move: errors where the clip obeys, and beside them those of a still one."""
    rows = []
    for move, group in clips.items():
        cells = []
        for name, unit, digits, scale in zip(CAMERA, (" px", "%", "°"), (2, 2, 2), (1, 100, 1), strict=True):
            for part in (0, 1):
                values = [value * scale for one in group if (value := one[part][name]) is not None]
                cells.append(spread(values, unit, digits) if part == 0 else f"{np.median(values):.1f}{unit}")
        found = sum(one[0]["camera_zoom_error"] is not None for one in group)
        rows.append([move, str(len(group)), str(found), *cells])
    head = ["asked and shown", "clips", "measured", "pan error", "still", "zoom error", "still", "roll error", "still"]
    return table(head, rows)


def followed(seed: int, look: str) -> tuple[float | None, float | None, float]:
    """ObjMC of a subject that goes where it was asked to, of one that stands still, and the length of its way."""
    cv2.setNumThreads(1)
    scene = sample_scene(seed, "heldout" if seed % 3 == 0 else "train")
    still, rng = sample_path(scene, seed, "static", 1, COUNT), np.random.default_rng(seed)
    t, away = np.linspace(0, 1, COUNT), np.array([np.cos(0.3), 0, np.sin(0.3)])
    way = np.stack([rng.uniform(-0.3, 0.3) * np.sin(2 * t), rng.uniform(0.4, 0.7) * rng.choice([-1, 1]) * t, 0 * t], 1)
    subject = way.astype(np.float32)
    camera: Camera = look_at((still.aim + still.radius[:, None] * away).astype(np.float32), still.aim)
    colour, depth, mask = cast(scene, camera, subject, rays(camera, SIDE, SIDE, samples=1), textured=look == "textured")
    frames = (np.clip(colour, 0, 1) * 255).astype(np.uint8)
    path = _surface(mask[0], depth[0], camera, subject)
    rows, columns = np.nonzero(mask[0])
    box = columns.min(), rows.min(), columns.max(), rows.max()
    asked = Asked((AskedObject("subject", path, box),), size=(SIDE, SIDE), fps=FPS, frames=COUNT)
    moved, stood = (measured(of, ["objmc"], asked)["objmc"] for of in (frames, frames[:1].repeat(COUNT, 0)))
    return moved, stood, float(np.linalg.norm(path[-1] - path[0]))


def _surface(mask: np.ndarray, depth: np.ndarray, camera: Camera, subject: np.ndarray) -> np.ndarray:
    """(F, 2) pixels of the surface point under the mask's deepest pixel, as the subject carries it along."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    lens = intrinsics(SIDE, SIDE).astype(np.float64)
    ray = np.linalg.inv(lens) @ [column + 0.5, row + 0.5, 1] * depth[row, column]
    world = ray @ camera.rotation[0] + camera.position[0] + subject - subject[0]
    seen = np.einsum("fij,fj->fi", camera.rotation, world - camera.position) @ lens.T
    return np.asarray(seen[:, :2] / seen[:, 2:] - 0.5)


def object_report(clips: dict[str, list[tuple[float | None, float | None, float]]]) -> str:
    """A line for each look."""
    rows = []
    for look, group in clips.items():
        moved = [one[0] for one in group if one[0] is not None]
        stood = [one[1] for one in group if one[1] is not None]
        lengths = [one[2] for one in group]
        worst = f"{max(moved):.2f} px" if moved else "–"
        rows.append([look, str(len(group)), str(len(moved)), spread(lengths, " px", 0), spread(moved, " px", 2), worst,
                     spread(stood, " px", 1)])  # fmt: skip
    return table(["look", "clips", "measured", "way", "ObjMC, obeying", "worst", "ObjMC, standing still"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=96, help="rendered for orbits (%(default)s)")
    parser.add_argument("--moves", type=int, default=16, help="of each kind, and objects of each look (%(default)s)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "EVALUATION_RESULTS.md")
    options = parser.parse_args()
    start_file(options.out, "motion")
    groups = list(product((64, SIDE), ("textured", "plain"), ("orbit", "wild", "pan", "static")))
    chosen = [(FIRST_SEED + i, groups[i % len(groups)]) for i in range(options.clips)]
    jobs = [Job(seed, domain, look, side) for seed, (side, look, domain) in chosen]  # type: ignore[arg-type]
    seeds = range(FIRST_SEED, FIRST_SEED + options.moves)
    spoils = {"**as rendered**": "", f"blurred {BLUR:g} px, grain of {GRAIN:g} levels": "decoded"}
    with ProcessPoolExecutor(options.workers) as pool:
        circles = {name: list(pool.map(circled, jobs, [spoil] * len(jobs))) for name, spoil in spoils.items()}
        views = {move: list(pool.map(viewed, seeds, [move] * len(seeds))) for move in MOVES}
        objects = {look: list(pool.map(followed, seeds, [look] * len(seeds))) for look in ("textured", "plain")}
    text = [orbit_report(circles), "", view_report(views), "", object_report(objects), "", f"({machine()})"]
    insert(options.out, "motion", "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
