"""How well `flow` masks know a subject: rendered clips with exact truth.

python benchmarks/subject_masks.py    # renders, measures, writes docs/EVALUATION_RESULTS.md

Seeds begin at 20,000; constants were chosen on seeds below 5,000.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from tables import insert, machine, table

from musubi_ext.evaluation.masks import MaskSource, find_masks, found
from musubi_ext.evaluation.metrics.mask_iou import iou
from musubi_ext.evaluation.metrics.subject_drift import drift
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.orbits.render import Clip, Look, render
from musubi_ext.orbits.scenes import Domain
from musubi_ext.storage import write_text
from musubi_ext.video import Frames

ROOT = Path(__file__).resolve().parents[1]
FIRST_SEED = 20_000
BLUR, GRAIN = 1.0, 8.0  # pixels, levels: what a decoder does to a picture
GOOD = 0.8  # IoU
HEADING = "# What the evaluation measures, and how well\n"


@dataclass(frozen=True)
class Job:
    """A clip to render, 17 frames of `side` × `side`; every third of a shape that no training scene has."""

    seed: int
    domain: Domain
    look: Look
    side: int

    def clip(self) -> Clip:
        family = "heldout" if self.seed % 3 == 0 else "train"
        size = (self.side, self.side)
        return render(self.seed, self.domain, 1 if self.seed % 2 else -1, size=size, look=self.look, family=family)


def as_it_is(frames: Frames) -> Frames:
    return frames


def decoded(frames: Frames) -> Frames:
    """Blurred and grainy, as a decoder leaves it."""
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), BLUR) for frame in frames]).astype(np.float64)
    grain = np.random.default_rng(0).normal(0, GRAIN, frames.shape)
    return np.clip(np.round(soft + grain), 0, 255).astype(np.uint8)


def colourless(frames: Frames) -> Frames:
    return np.stack([cv2.cvtColor(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for f in frames])


SPOILS: dict[str, Callable[[Frames], Frames]] = {"": as_it_is, "decoded": decoded, "colourless": colourless}


@dataclass(frozen=True)
class Followed:
    """One clip's masks against the truth's: median IoU over frames, least, coverage, drift's error (widths), s/frame.

    `iou` is 0 and `refused` the reason when the provider said that it cannot follow.
    """

    job: Job
    iou: float
    least: float
    coverage: float
    drift_error: float
    seconds: float
    refused: str = ""


def followed(job: Job, spoil: str, boxed: bool) -> Followed:
    cv2.setNumThreads(1)
    clip = job.clip()
    rows, columns = np.nonzero(clip.mask[0])
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if boxed else None
    frames = SPOILS[spoil](clip.frames)
    start = time.process_time()
    try:
        found_masks = find_masks(MaskSource.FLOW, frames, box=tuple(map(float, box)) if box else None)
    except UnavailableError as reason:
        seconds = (time.process_time() - start) / len(frames)
        return Followed(job, 0.0, 0.0, 0.0, float("nan"), seconds, str(reason))
    seconds = (time.process_time() - start) / len(frames)
    masks = found_masks.masks
    scores = [iou(a, b) for a, b in zip(masks, clip.mask, strict=True)]
    error = abs(drift(masks[found(masks)]) - drift(clip.mask[found(clip.mask)])) / job.side
    return Followed(job, float(np.median(scores)), min(scores), found_masks.coverage, error, seconds)


def mask_row(name: str, group: Sequence[Followed]) -> list[str]:
    """One line of the table of masks; a refused clip counts as IoU 0."""
    scores = np.array([one.iou for one in group])
    low, middle, high = np.percentile(scores, [25, 50, 75])
    kept = [one for one in group if not one.refused]
    errors = [one.drift_error for one in kept]
    return [
        name,
        str(len(group)),
        f"{middle:.3f} [{low:.3f}, {high:.3f}]",
        f"{scores.min():.3f}",
        f"{np.mean(scores >= GOOD):.0%}",
        f"{len(group) - len(kept)}",
        f"{np.mean([one.coverage for one in kept]):.0%}" if kept else "–",
        f"{np.median(errors):.2%}, {np.max(errors):.2%}" if kept else "–",
        f"{1000 * np.median([one.seconds for one in group]):.1f}",
    ]


MASK_HEAD = (
    "clips", "number", "IoU, median [quartiles]", "worst", f"IoU ≥ {GOOD}", "refused", "coverage",
    "drift error, median, worst", "ms a frame",
)  # fmt: skip


def mask_report(runs: dict[str, list[Followed]]) -> str:
    """Groups of the plain run, then the other runs as a whole."""
    plain = runs["as rendered"]
    rows = [mask_row("**as rendered, centre prior**", plain)]
    for side, look, domain in product((64, 128), ("plain", "textured"), ("orbit", "wild")):
        group = [one for one in plain if (one.job.side, one.job.look, one.job.domain) == (side, look, domain)]
        if group:
            rows.append(mask_row(f"{domain}, {look}, {side}×{side}", group))
    rows += [mask_row(name, group) for name, group in runs.items() if name != "as rendered"]
    return table(MASK_HEAD, rows)


def mask_jobs(count: int) -> list[Job]:
    """`count` clips spread evenly over domain, look and size."""
    groups = list(product((64, 128), ("plain", "textured"), ("orbit", "wild")))
    chosen = [(FIRST_SEED + i, groups[i % len(groups)]) for i in range(count)]
    return [Job(seed, domain, look, side) for seed, (side, look, domain) in chosen]  # type: ignore[arg-type]


def start_file(path: Path, *names: str) -> None:
    """Make sure that `path` has the markers of each of `names`."""
    text = path.read_text(encoding="utf-8") if path.exists() else HEADING
    for name in names:
        if f"<!-- {name}:start -->" not in text:
            text += f"\n<!-- {name}:start -->\n<!-- {name}:end -->\n"
    write_text(path, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "EVALUATION_RESULTS.md")
    options = parser.parse_args()
    start_file(options.out, "masks")
    jobs = mask_jobs(options.clips)
    kinds = {
        "as rendered": ("", False),
        "as rendered, true box of the first frame": ("", True),
        f"blurred {BLUR:g} px, grain of {GRAIN:g} levels": ("decoded", False),
        "colourless": ("colourless", False),
    }
    with ProcessPoolExecutor(options.workers) as pool:
        runs = {
            name: list(pool.map(followed, jobs, [spoil] * len(jobs), [boxed] * len(jobs)))
            for name, (spoil, boxed) in kinds.items()
        }
    insert(options.out, "masks", f"{mask_report(runs)}\n\n({machine()})")


if __name__ == "__main__":
    main()
