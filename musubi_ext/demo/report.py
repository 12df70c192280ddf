"""`summary.json`, the table that is printed from it, and where everything lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from musubi_ext.demo.options import Layout
from musubi_ext.demo.stages import Demo
from musubi_ext.pipeline.stages import read_stamp

NONE = "-"
ROWS = ("truth", "frozen", "base", "pair")
SERVE = "bentoml serve serving.service:VideoService"
LEGEND = (
    "Medians over scenes; drift with its 95% interval, and as a multiple of the exact truth's. "
    "truth: the true orbit through the base's own VAE, the best it can show. frozen: the first frame, still. "
    "direction: share of scenes that turn as captioned, seen on the subject alone. angle: error of the swept angle. "
    "motion: first-to-last change, truth = 1. s: seconds a video."
)
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
    demo: Demo,
    table: Mapping[str, Any],
    registered: Mapping[str, Any],
    gate: str,
    run: Mapping[str, str],
    register_seconds: float,
) -> dict[str, Any]:
    """The content of `summary.json`. `seconds` are those of the runs that finished the stages, whenever that was."""
    stamps = {
        name: [read_stamp(demo.layout, stage).get("seconds", 0.0) for stage in of] for name, of in SECONDS.items()
    }
    seconds = {name: round(sum(values), 3) for name, values in stamps.items()}
    seconds["register"] = round(register_seconds, 3)  # its stamp is still to come
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
    console.print(LEGEND, style="dim", markup=False, highlight=False)
    console.print()
    for line in missing(document):
        console.print(line, markup=False, highlight=False)
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
        "service": served(json.loads(layout.served.read_text(encoding="utf-8"))),
        "serve it": f"MUSUBI_EXT_SERVICE_CONFIG={_shown(layout.service_config)} {SERVE}",
    }
    for name, value in where.items():
        console.print(f"{name:11} {value}", markup=False, highlight=False, soft_wrap=True)


def served(answer: Mapping[str, Any]) -> str:
    """What the service answered, of its `service.json`."""
    if reason := answer.get("unavailable"):
        return f"unavailable: {reason}"
    seconds = answer["seconds"]
    return f"ready after {seconds['ready']:.1f} s; {answer['model']} made {answer['video']} in {seconds['job']:.2f} s"


def missing(document: Mapping[str, Any]) -> list[str]:
    """What is not in the medians: a line per model and metric that some scenes could not answer."""
    lacking = {name: document[name].get("unavailable", {}) for name in ROWS}
    return [f"{name}: {metric}: {reason}" for name, found in lacking.items() for metric, reason in found.items()]


def table_of(document: Mapping[str, Any]) -> Table:
    """Medians over the scenes of a `summary.json`."""
    seconds = document["seconds"]
    title = f"{document['scenes']} held-out scenes, whole chain {seconds['total'] / 60:.1f} min"
    drawn = Table(title=title, box=SIMPLE, padding=(0, 1), collapse_padding=True)  # fits 80 columns
    drawn.add_column("")
    for heading in ("drift px", "× truth", "PSNR", "direction", "angle", "motion", "s"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    exact = document["exact"]["subject_drift"]
    for name in ROWS:
        drawn.add_row(name, *_cells(document[name], exact["median"] if exact else None))
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
