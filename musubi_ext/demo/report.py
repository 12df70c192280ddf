"""`summary.json`, the table that is printed from it, and where everything lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from musubi_ext.demo.options import Layout
from musubi_ext.demo.stages import Demo, read_stamp

NONE = "-"
LABELS = {
    "truth": "truth through the VAE",
    "frozen": "frozen first frame",
    "base": "base",
    "pair": "base + pair",
}
# key of `seconds`: the stages that it adds up
SECONDS = {
    "render": ("render", "scenes"),
    "cache": ("cache",),
    "train": ("train",),
    "generate": ("generate",),
    "evaluate": ("evaluate",),
}


def rows(results: Mapping[str, Any], seconds: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A row per model: medians over scenes with the drift's interval, and the seconds a video takes."""
    from musubi_ext.evaluation.summary import summarise

    table: dict[str, Any] = summarise(results)
    for model in ("base", "pair"):
        table[model]["seconds_per_video"] = round(median(taken[model] for taken in seconds.values()), 3)
    return table


def summary(
    demo: Demo, table: Mapping[str, Any], registered: Mapping[str, Any], gate: str, run: Mapping[str, str]
) -> dict[str, Any]:
    """The content of `summary.json`. `seconds` are those of the runs that finished the stages, whenever that was."""
    stamps = {
        name: [read_stamp(demo.layout, stage).get("seconds", 0.0) for stage in of] for name, of in SECONDS.items()
    }
    seconds = {name: round(sum(values), 3) for name, values in stamps.items()}
    return {
        "scenes": demo.options.scenes,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 3)},
        **table,
        "registered": dict(registered),
        "gate": gate,
        "options": asdict(demo.options),
        "run": dict(run),
    }


def print_report(document: Mapping[str, Any], layout: Layout, console: Console) -> None:
    """The table, the gate's word, and where to look."""
    console.print()
    console.print(table_of(document))
    registered = document["registered"]
    gate = document["gate"]
    console.print(f"gate: {gate if gate == 'passed' else f'refused: {gate}'}", markup=False, highlight=False)
    where = {
        "filmstrips": f"{_shown(layout.filmstrips)}/*.png",
        "videos": f"{_shown(layout.videos)}/*.mp4",
        "pair": ", ".join(_shown(path) for path in sorted(layout.pair.glob("*")) if _of_pair(path)),
        "registered": f"models:/{registered['name']}/{registered['version']}  ({', '.join(registered['aliases'])})",
        "MLflow": document["run"]["ui"],
        "figures": _shown(layout.summary),
    }
    for name, value in where.items():
        console.print(f"{name:11} {value}", markup=False, highlight=False, soft_wrap=True)


def table_of(document: Mapping[str, Any]) -> Table:
    """Medians over the scenes of a `summary.json`."""
    seconds = document["seconds"]
    drawn = Table(title=f"{document['scenes']} held-out scenes, chain of {seconds['total'] / 60:.1f} min")
    drawn.add_column("")
    for heading in ("drift px", "of truth's", "PSNR dB", "direction", "angle error", "motion", "s/video"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    exact = document["exact"]["subject_drift"]
    for name, label in LABELS.items():
        drawn.add_row(label, *_cells(document[name], exact["median"] if exact else None))
    return drawn


def _cells(row: Mapping[str, Any], exact: float | None) -> list[str]:
    drift = row["subject_drift"]
    return [
        f"{drift['median']:.2f} \\[{drift['low']:.2f}, {drift['high']:.2f}]" if drift else NONE,
        _cell(drift["median"] / exact if drift and exact else None, ".2f"),
        _cell(row["psnr"], ".2f"),
        _cell(row["direction_accuracy"], ".2f"),
        _cell(row["swept_angle_error_deg"], ".1f", "°"),
        _cell(row["motion_ratio"], ".2f"),
        _cell(row.get("seconds_per_video"), ".2f"),
    ]


def _cell(value: float | None, form: str, unit: str = "") -> str:
    return NONE if value is None else f"{value:{form}}{unit}"


def _of_pair(path: Path) -> bool:
    return path.name.endswith((".pair.json", "_h.safetensors", "_l.safetensors"))


def _shown(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
