"""How well compensated drift knows a subject's wander: the renderer's poses on rendered clips, and real clips.

python benchmarks/compensated_drift.py    # renders, measures, writes docs/EVALUATION_RESULTS.md

Masks are the `flow` provider's. Seeds begin at 30,000; constants were chosen on seeds below 5,000.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from subject_masks import BLUR, GRAIN, ROOT, SPOILS, Job, start_file
from tables import insert, table

from musubi_ext.evaluation.flow import sample_indices
from musubi_ext.evaluation.masks import MaskSource, centroids, find_masks, found
from musubi_ext.evaluation.result import Result, UnavailableError
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.orbits.clips import load_frames, probe
from musubi_ext.orbits.render import Clip

FIRST_SEED = 30_000
METRICS = ("subject_drift", "subject_drift_compensated")


@dataclass(frozen=True)
class Drifted:
    """One clip's drift in pixels of 64: the true wander's, the raw one, the compensated one or why there is none."""

    job: Job
    true: float
    raw: float
    compensated: float | None
    unavailable: str
    seconds: float


def drifted(job: Job, spoil: str) -> Drifted:
    cv2.setNumThreads(1)
    clip = job.clip()
    samples = sample_indices(len(clip.frames))
    start = time.process_time()
    results = evaluate(SPOILS[spoil](clip.frames), masks=MaskSource.FLOW, metrics=METRICS, threads=1)
    seconds = time.process_time() - start
    scale = 64 / job.side
    raw, ours = (results[name] for name in METRICS)
    return Drifted(
        job=job,
        true=_spread(world_wander(clip)[samples]) * scale,
        raw=float("nan") if raw.value is None else raw.value * scale,
        compensated=None if ours.value is None else ours.value * scale,
        unavailable=str(ours.unavailable or ""),
        seconds=seconds,
    )


def world_wander(clip: Clip) -> np.ndarray:
    """(F, 2) pixels between the subject's centre and where it would be had it not moved, under the true cameras."""
    corners = clip.boxes[0].reshape(-1, 3)
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2 - clip.subject[0]
    here, still = (_projected(clip, centre + where) for where in (clip.subject, clip.subject[:1]))
    return here - still


def _projected(clip: Clip, points: np.ndarray) -> np.ndarray:
    """(F, 2) pixels of world points (F, 3) or (1, 3)."""
    points = np.broadcast_to(points, (len(clip.pose), 3)).astype(np.float64)
    seen = np.einsum("fij,fj->fi", clip.pose[:, :3, :3].astype(np.float64), points) + clip.pose[:, :3, 3]
    pixels = seen @ clip.intrinsics.astype(np.float64).T
    return pixels[:, :2] / pixels[:, 2:]


def _spread(path: np.ndarray) -> float:
    return float(np.sqrt((path.std(axis=0) ** 2).sum()))


DRIFT_HEAD = (
    "clips", "number", "measured", "true wander", "raw drift", "compensated", "raw's error", "compensated error",
    "correlation with truth: raw, compensated",
)  # fmt: skip


def drift_row(name: str, group: Sequence[Drifted]) -> list[str]:
    """One line of the table of drift, pixels of 64; errors are medians [quartiles] over the clips measured."""
    kept = [(one.true, one.raw, one.compensated) for one in group if one.compensated is not None]
    if not kept:
        return [name, str(len(group)), "0", *["–"] * 6]
    true, raw, ours = np.array(kept).T

    def error(values: np.ndarray) -> str:
        low, middle, high = np.percentile(np.abs(values - true), [25, 50, 75])
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"

    varied = len(kept) > 2 and true.std() > 0
    both = [f"{np.corrcoef(true, values)[0, 1]:.2f}" for values in (raw, ours)] if varied else ["–"]
    means = [f"{values.mean():.2f}" for values in (true, raw, ours)]
    return [name, str(len(group)), str(len(kept)), *means, error(raw), error(ours), ", ".join(both)]


def drift_report(runs: dict[str, list[Drifted]]) -> str:
    """Groups of the plain run, the other runs as a whole, and why clips were not measured."""
    plain = runs["as rendered"]
    rows = [drift_row("**as rendered**", plain)]
    for domain, look in product(("orbit", "wild", "pan", "static"), ("textured", "plain")):
        rows.append(drift_row(f"{domain}, {look}", [o for o in plain if (o.job.domain, o.job.look) == (domain, look)]))
    rows += [drift_row(name, group) for name, group in runs.items() if name != "as rendered"]
    seconds = np.median([one.seconds for one in plain if one.job.side == 128 and one.compensated is not None])
    refused = [one for one in plain if one.compensated is None]
    lines = [table(DRIFT_HEAD, rows), "", f"- 17 frames of 128×128, masks included: {seconds:.2f} s of one core"]
    if refused:
        lines.append(f"- {len(refused)} of {len(plain)} not measured; the first one's reason: {refused[0].unavailable}")
    return "\n".join(lines)


def real_report(folder: Path) -> str:
    """A line for each real clip: nobody knows its truth, so this shows availability and what the figures look like."""
    rows = []
    for path in sorted(folder.glob("*.gif")):
        frames = load_frames(path, probe(path).size)
        results = evaluate(frames, masks=MaskSource.FLOW, metrics=METRICS, threads=1)
        raw, ours = (results[name] for name in METRICS)
        try:
            masks = find_masks(MaskSource.FLOW, frames)
            area = [
                f"{masks.coverage:.0%}",
                " → ".join(f"{masks.masks[i].mean():.0%}" for i in (0, -1)),
                _moved(masks.masks),
            ]
        except UnavailableError as reason:
            area = ["–", str(reason), "–"]
        rows.append([path.stem, *area, _value(raw), _value(ours)])
    head = (
        "real clip",
        "coverage",
        "area, first → last",
        "centroid, first → last (px)",
        "raw drift (px)",
        "compensated (px)",
    )
    return table(head, rows)


def _shares(masks: np.ndarray) -> str:
    return " → ".join(f"{masks[index].mean():.0%}" for index in (0, -1))


def _moved(masks: np.ndarray) -> str:
    places = centroids(masks[found(masks)])
    return " → ".join(f"({x:.0f}, {y:.0f})" for x, y in places[[0, -1]])


def _value(result: Result) -> str:
    return str(result.unavailable) if result.value is None else f"{result.value:.2f}"


def drift_jobs(count: int) -> list[Job]:
    """`count` clips spread evenly over domain, look and size."""
    groups = list(product((64, 128), ("textured", "plain"), ("orbit", "wild", "pan", "static")))
    chosen = [(FIRST_SEED + i, groups[i % len(groups)]) for i in range(count)]
    return [Job(seed, domain, look, side) for seed, (side, look, domain) in chosen]  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "data" / "circle_rotate")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "EVALUATION_RESULTS.md")
    options = parser.parse_args()
    start_file(options.out, "compensated-drift")
    jobs = drift_jobs(options.clips)
    spoils = {"as rendered": "", f"blurred {BLUR:g} px, grain of {GRAIN:g} levels": "decoded"}
    with ProcessPoolExecutor(options.workers) as pool:
        runs = {name: list(pool.map(drifted, jobs, [spoil] * len(jobs))) for name, spoil in spoils.items()}
    text = drift_report(runs)
    if options.real.is_dir():
        text += f"\n\n{real_report(options.real)}"
    insert(options.out, "compensated-drift", text)


if __name__ == "__main__":
    main()
