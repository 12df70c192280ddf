"""What `evaluate` is to measure, and with what: its flags checked together, its folder turned into jobs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import Problems
from musubi_ext.evaluation.features import ModelSource
from musubi_ext.evaluation.features.sets import SET_METRICS
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.pool import Engine, Job, Settings, local_engine
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.ray import ray_engine
from musubi_ext.evaluation.suite import select

SUFFIXES = (".mp4", ".gif", ".mov", ".mkv", ".webm")
FOLDERS = {"truth": "NAME.npz", "asked": "NAME.json", "models": "models", "reference": "videos"}


@dataclass(frozen=True)
class Plan:
    """The clips, where they are measured, and the metrics of the whole set."""

    jobs: Sequence[Job]
    engine: Engine
    set_metrics: Sequence[str]
    models: ModelSource


def prepared(args: argparse.Namespace) -> Plan:
    """What the flags name. Raises UserError with everything wrong at once."""
    problems = Problems()
    clips = _clips(args, problems)
    _check_paths(args, problems)
    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    if workers < 1:
        problems.add(f"--workers {workers}", "expected at least 1")
    sets = _set_metrics(args, problems)
    names = [name for name in args.metric if name not in SET_METRICS]
    metrics = problems.collect(lambda: select(names))
    engine = problems.collect(lambda: ray_engine() if args.engine == "ray" else local_engine(workers))
    problems.raise_if_any()
    assert metrics is not None  # every None has left its problem
    assert engine is not None
    models = ModelSource(args.models, not args.download, args.device, args.inception, args.i3d)
    chosen = tuple(metric.name for metric in metrics)
    settings = Settings(chosen, MaskSource(args.masks), Profile(args.profile), models)
    return Plan([_job(args, clip, settings) for clip in clips], engine, sets, models)


def _check_paths(args: argparse.Namespace, problems: Problems) -> None:
    for flag, kind in FOLDERS.items():
        folder = getattr(args, flag)
        if folder is not None and not folder.is_dir():
            problems.add(f"--{flag} {folder}", f"expected a folder of {kind}, found none")
    for flag in ("inception", "i3d"):
        file = getattr(args, flag)
        if file is not None and not any(path.is_file() for path in (file, (args.models or Path()) / file)):
            problems.add(f"--{flag} {file}", "expected a TorchScript file, found none")
    for flag, suffix in (("output", ".json"), ("html", ".html")):
        file = getattr(args, flag)
        if file is not None and file.suffix != suffix:
            problems.add(f"--{flag} {file}", f"expected a name that ends in {suffix}")
    if args.masks == "truth" and args.truth is None:
        problems.add("--masks truth", "needs the true masks", "add --truth DIR")


def _set_metrics(args: argparse.Namespace, problems: Problems) -> list[str]:
    """FID and FVD: those named, or both where everything is asked for and there is something to compare with."""
    named = [name for name in SET_METRICS if name in args.metric]
    if named and args.reference is None:
        problems.add(f"--metric {' '.join(named)}", "compares two sets of videos", "add --reference DIR")
    if named and args.format != "musubi-ext":
        problems.add(f"--metric {' '.join(named)}", f"has no place in the layout of --format {args.format}")
    return list(SET_METRICS) if args.metric == ["all"] and args.reference else named


def _clips(args: argparse.Namespace, problems: Problems) -> list[Path]:
    if (args.videos is None) == (args.input_dir is None):
        problems.add("DIR", "expected one folder of clips", "name it as it is, or with --input_dir")
        return []
    folder = args.videos or args.input_dir
    if not folder.is_dir():
        problems.add(folder, "expected a folder of clips, found none")
        return []
    clips = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not clips:
        problems.add(folder, "no clip in this folder", f"expected {', '.join(SUFFIXES)}")
    return clips


def _job(args: argparse.Namespace, clip: Path, settings: Settings) -> Job:
    def beside(folder: Path | None, suffix: str) -> Path | None:
        file = folder / f"{clip.stem}{suffix}" if folder else None
        return file if file is not None and file.is_file() else None

    caption = beside(clip.parent, ".txt")
    text = caption.read_text(encoding="utf-8", errors="replace").strip() if caption else ""
    asked = beside(args.asked, ".json") or beside(args.asked, ".npy")
    return Job(clip.name, clip, settings, beside(args.truth, ".npz"), asked, text)
