"""How well `estimate_orbit` knows a clip's orbit: rendered clips with exact poses, real clips with captions.

python benchmarks/orbit_geometry.py --keep /tmp/orbit_clips    # renders once, measures, writes docs/DATA_RESULTS.md

Seeds begin at 10,000; the thresholds were chosen on seeds below 1,000.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from tables import insert, machine, table

from musubi_ext.orbits.captions import direction, mirror_caption
from musubi_ext.orbits.clips import load_frames, probe
from musubi_ext.orbits.geometry.orbit import OrbitGeometry, estimate_orbit
from musubi_ext.orbits.raycast import Camera, cast, look_at, rays
from musubi_ext.orbits.render import Look
from musubi_ext.orbits.scenes import KINDS, Domain, Family, caption, sample_path, sample_scene
from musubi_ext.storage import atomic_path
from musubi_ext.video import Frames

ROOT = Path(__file__).resolve().parents[1]
FIRST_SEED = 10_000
MIRROR_TOLERANCE = 3.0  # degrees
GRAIN = 4.0  # levels: noise on clips without an orbit
BANDS = (0.0, 0.5, 0.8, 1.01)  # of confidence


@dataclass(frozen=True)
class Job:
    """A clip to render: `size` is (width, height), `degrees` the sweep of `orbit` (`wild` draws its own 75–105°)."""

    seed: int
    domain: Domain
    direction: int
    degrees: float
    frames: int
    size: tuple[int, int]
    look: Look
    family: Family


@dataclass(frozen=True)
class Found:
    """An estimate beside the truth: azimuth in degrees (F,), the mirrored clip's estimate, seconds of one core."""

    job: Job
    azimuth: np.ndarray
    place: np.ndarray  # (F,) the subject's horizontal place in widths from the middle, NaN where unseen
    caption: str
    estimate: OrbitGeometry
    mirrored: OrbitGeometry
    seconds: float


def jobs(orbits: int, others: int) -> list[Job]:
    """Three quarters steady orbits over 30–180°, a quarter unsteady ones; then half still clips, half pans."""
    rng = np.random.default_rng(FIRST_SEED)
    domains: list[Domain] = ["wild" if i % 4 == 3 else "orbit" for i in range(orbits)]
    domains += ["static" if i % 2 else "pan" for i in range(others)]
    return [
        Job(
            seed=FIRST_SEED + i,
            domain=domain,
            direction=int(rng.choice([-1, 1])),
            degrees=float(rng.uniform(30, 180)),
            frames=int(rng.choice([33, 51])),
            size=(180, 320) if rng.integers(8) == 0 else (128, 128),
            look=("plain", "textured")[int(rng.integers(2))],
            family=list(KINDS)[int(rng.integers(2))],
        )
        for i, domain in enumerate(domains)
    ]


def rendered(job: Job) -> tuple[Frames, np.ndarray, np.ndarray, str]:
    """Frames (F, H, W, 3), azimuth (F,), the subject's place (F,) and the caption, as `render` makes them."""
    scene = sample_scene(job.seed, job.family)
    path = sample_path(scene, job.seed, job.domain, job.direction, job.frames, job.degrees)
    flat = np.cos(path.elevation)
    away = np.stack([flat * np.cos(path.azimuth), flat * np.sin(path.azimuth), np.sin(path.elevation)], 1)
    camera = look_at((path.aim[:1] + path.radius[:, None] * away).astype(np.float32), path.aim)
    width, height = job.size
    frames, places = [], []
    for i in range(1 if job.domain == "static" else job.frames):
        one = Camera(camera.rotation[i : i + 1], camera.position[i : i + 1])
        subject = path.subject[i : i + 1]
        colour, _, mask = cast(scene, one, subject, rays(one, width, height, samples=2), job.look == "textured")
        mean = colour.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
        frames.append(np.round(np.clip(mean, 0, 1) * 255).astype(np.uint8))
        columns = np.nonzero(mask[0])[1]
        places.append(columns.mean() / (2 * width) - 0.5 if len(columns) else np.nan)
    repeat = job.frames // len(frames)
    return np.repeat(np.stack(frames), repeat, 0), -np.rad2deg(path.azimuth), np.array(places), caption(scene, path)


def measured(job: Job, keep: Path | None) -> Found:
    """Render (or read what an earlier run kept) and estimate, as it is and mirrored."""
    cv2.setNumThreads(1)
    file = keep / f"{job.seed}_{job.domain}_{job.degrees:.2f}.npz" if keep else None
    if file and file.exists():
        with np.load(file) as old:
            frames, azimuth, place, words = old["frames"], old["azimuth"], old["place"], str(old["words"])
    else:
        frames, azimuth, place, words = rendered(job)
        if file:
            with atomic_path(file) as temporary:
                np.savez(temporary, frames=frames, azimuth=azimuth, place=place, words=words)
    if job.domain in ("static", "pan"):  # exact repetition would be too easy to know
        grain = np.random.default_rng(job.seed).normal(0, GRAIN, frames.shape)
        frames = np.clip(frames + grain, 0, 255).astype(np.uint8)
    start = time.process_time()
    estimate = estimate_orbit(frames)
    seconds = time.process_time() - start
    return Found(job, azimuth, place, words, estimate, estimate_orbit(frames[:, :, ::-1]), seconds)


def error(found: Found) -> float:
    """Degrees between the estimated and the true angle, the direction's sign included; infinite when there is none."""
    estimate = found.estimate
    if estimate.swept_angle is None or not estimate.direction:
        return np.inf
    return float(abs(estimate.direction * estimate.swept_angle - found.azimuth[-1]))


def orbit_row(name: str, group: Sequence[Found]) -> list[str]:
    """One line of the table of orbits."""
    if not group:
        return [name, "0", *["–"] * 6]
    errors = np.array([error(found) for found in group])
    right = sum(found.estimate.direction == np.sign(found.azimuth[-1]) for found in group)
    paces = [
        abs(found.estimate.steadiness - _steadiness(found)) for found in group if found.estimate.steadiness is not None
    ]
    places = [
        abs(found.estimate.centring - float(np.nanmean(np.abs(found.place))))
        for found in group
        if found.estimate.centring is not None
    ]
    relative = errors / np.abs([found.azimuth[-1] for found in group])
    return [
        name,
        str(len(group)),
        f"{right} / {len(group)}",
        f"{np.median(errors):.1f}°",
        f"{np.percentile(errors, 90, method='higher'):.1f}°",
        f"{np.median(relative):.1%}",
        f"{np.median(paces):.3f}" if paces else "–",
        f"{np.median(places):.3f} ({len(places)})" if places else "–",
    ]


def _steadiness(found: Found) -> float:
    speed = np.diff(found.azimuth)
    return float(np.std(speed) / abs(np.mean(speed)))


def mirrors(group: Sequence[Found]) -> str:
    """How many mirrored orbits turned the other way over the same angle, and agreed with the mirrored caption."""
    turned = [found for found in group if found.mirrored.direction == -found.estimate.direction != 0]
    same = [f for f in turned if abs((f.mirrored.swept_angle or 0) - (f.estimate.swept_angle or 0)) <= MIRROR_TOLERANCE]
    words = [f for f in group if direction(mirror_caption(f.caption)) == f.mirrored.direction]
    return (
        f"Mirrored: {len(turned)} / {len(group)} turn the other way, {len(same)} of them within "
        f"{MIRROR_TOLERANCE:.0f}° of the same angle; {len(words)} / {len(group)} agree with `mirror_caption`."
    )


def rendered_report(found: Sequence[Found]) -> str:
    """Tables of the rendered clips."""
    orbits = [f for f in found if f.job.domain in ("orbit", "wild")]
    head = (
        "rendered clips",
        "clips",
        "direction right",
        "angle error, median",
        "90th percentile",
        "relative",
        "steadiness error",
        "centring error (measured)",
    )
    groups = [("all orbits", orbits)]
    for domain, look in (("orbit", "textured"), ("orbit", "plain"), ("wild", "textured"), ("wild", "plain")):
        groups.append((f"{domain}, {look}", [f for f in orbits if (f.job.domain, f.job.look) == (domain, look)]))
    for low, high in ((0, 60), (60, 120), (120, 181)):
        groups.append((f"{low}°–{min(high, 180)}°", [f for f in orbits if low <= abs(f.azimuth[-1]) < high]))
    for low, high in pairwise(BANDS):
        label = f"confidence {low:.1f}–{min(high, 1):.1f}"
        groups.append((label, [f for f in orbits if low <= f.estimate.confidence < high]))
    lines = [table(head, [orbit_row(*group) for group in groups]), "", mirrors(orbits), ""]
    for domain in ("static", "pan"):
        negatives = [f for f in found if f.job.domain == domain]
        false = sum(f.estimate.direction != 0 for f in negatives)
        lines.append(f"- false orbits on {domain} clips: {false} / {len(negatives)}")
    largest = [f.seconds for f in found if f.job.frames == 51 and f.job.size == (180, 320)]
    if largest:
        longest = f"{np.median(largest):.2f} s of one core, at most {max(largest):.2f} s"
        lines.append(f"- 51 frames of 180×320: {longest} ({machine()})")
    return "\n".join(lines)


def real_report(folder: Path) -> str:
    """A line for each real clip; the direction in words is the caption's, +1 is "right to left"."""
    rows = []
    for path in [*sorted((folder / "train").glob("*.mp4")), *sorted(folder.glob("*.gif"))]:
        text = path.with_suffix(".txt")
        words = direction(text.read_text(encoding="utf-8")) if text.exists() else None
        frames = load_frames(path, probe(path).size)
        one, mirrored = estimate_orbit(frames), estimate_orbit(frames[:, :, ::-1])
        rows.append(
            [
                f"{path.parent.name}/{path.name}" if text.exists() else path.name,
                _signed(words),
                *_words(one),
                *_words(mirrored)[:2],
            ]
        )
    head = (
        "real clip",
        "caption",
        "direction",
        "angle",
        "steadiness",
        "centring ± spread",
        "confidence",
        "mirrored",
        "angle",
    )
    return table(head, rows)


def _signed(value: int | None) -> str:
    return "–" if value is None else f"{value:+d}" if value else "0"


def _words(found: OrbitGeometry) -> list[str]:
    def number(value: float | None, pattern: str) -> str:
        return "–" if value is None else pattern.format(value)

    centring = f"{number(found.centring, '{:.2f}')} ± {number(found.centring_spread, '{:.2f}')}"
    angle, steadiness = number(found.swept_angle, "{:.0f}°"), number(found.steadiness, "{:.2f}")
    return [_signed(found.direction), angle, steadiness, centring, f"{found.confidence:.2f}"]


def _all(work: Iterable[Job], keep: Path | None, workers: int) -> list[Found]:
    work = list(work)
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(measured, work, [keep] * len(work)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orbits", type=int, default=200)
    parser.add_argument("--others", type=int, default=100, help="still clips and pans")
    parser.add_argument("--keep", type=Path, help="folder for the rendered clips, read by the next run")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "data" / "circle_rotate")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "DATA_RESULTS.md")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    found = _all(jobs(options.orbits, options.others), options.keep, options.workers)
    insert(options.out, "orbit-geometry", rendered_report(found))
    if options.real.is_dir():
        insert(options.out, "orbit-geometry-real", real_report(options.real))


if __name__ == "__main__":
    main()
