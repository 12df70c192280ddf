"""The tables and plots of `reproduce`: a row for each condition, paired differences, and the papers' claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tables import interval, machine, table

from musubi_ext.evaluation.result import ClipResults
from musubi_ext.evaluation.statistics import median_interval, paired_difference
from musubi_ext.storage import atomic_path

Measured = Mapping[str, Mapping[str, ClipResults]]  # condition → "SCENE_SEED" → metric → result
LABELS = {"recipe": "Circle-Rotate's recipe (all timesteps)", "pair": "**our pair**"}
COLUMNS = {  # metric: heading, digits, unit
    "subject_drift": ("drift px", 2, ""),
    "subject_drift_from_truth": ("compensated drift px", 2, ""),
    "psnr": ("PSNR dB", 1, ""),
    "swept_angle_error": ("angle error", 1, "°"),
    "motion_ratio": ("motion ratio", 2, ""),
}
PAIRED = ("subject_drift", "subject_drift_from_truth", "psnr", "swept_angle_error")
WITHOUT_TRUTH = "subject_drift_compensated"
DIFFERENCES = {  # heading: before, after
    "our pair − base": ("base", "pair"),
    "our pair − Circle-Rotate's recipe": ("recipe", "pair"),
    "high only − base": ("base", "high only"),
    "low only − base": ("base", "low only"),
    "our pair, 4 − 8 steps": ("pair", "pair, 4 steps"),
    "our pair, 20 − 8 steps": ("pair", "pair, 20 steps"),
    "first + last − first frame, our pairs": ("pair", "pair, first + last"),
}
CLAIMS = [  # of the papers, on their own data and by their own metrics: not comparable with the rows above
    [
        "Circle-Rotate",
        "subject drift 4.02 against 21.27 (Chinese README); 23.78 against 28.02 on CO3D (English README)",
    ],
    [
        "PoseTraj",
        "ObjMC 77.48, FID 38.41, FVD 267.33 against DragAnything's 91.12, 39.29, 275.93 (VIPSeg; secondary notes)",
    ],
    ["LightMotion, Zo3T, Diffusion²", "no figure at hand that could stand beside these"],
]


def markdown(document: Mapping[str, Any], measured: Measured) -> str:
    """Everything between the markers."""
    head = (
        f"{document['scenes']} held-out scenes of known kinds × {document['seeds']} seeds of the noise; "
        f"{document['steps']} updates for each expert; 8 steps unless said. Medians over scenes of each scene's mean "
        f"over seeds [95% bootstrap interval]; direction as the share of videos. {machine()}, "
        f"{document['seconds'] / 60:.0f} minutes."
    )
    rows = [[LABELS.get(name, name), *_cells(clips)] for name, clips in measured.items()]
    titles = ["", *(title for title, _, _ in COLUMNS.values()), "direction", "lacking"]
    paired = [[name, *_paired(measured[before], measured[after])] for name, (before, after) in DIFFERENCES.items()]
    return "\n".join(
        [
            head, "", table(titles, rows), "", _without_truth(measured), "",
            "Paired over scenes, median difference [95% bootstrap interval]:", "",
            table(["", *(COLUMNS[metric][0] for metric in PAIRED)], paired), "",
            "What the papers claim, on other data and other models:", "",
            table(["", "claim"], CLAIMS),
        ]
    )  # fmt: skip


def by_scene(clips: Mapping[str, ClipResults], metric: str) -> dict[str, float]:
    """Each scene's mean over seeds; a scene without a value is left out."""
    values: dict[str, list[float]] = {}
    for name, results in clips.items():
        value = results[metric].value if metric in results else None
        if value is not None:
            values.setdefault(name.rpartition("_")[0], []).append(value)
    return {scene: fmean(of) for scene, of in values.items()}


def _cells(clips: Mapping[str, ClipResults]) -> list[str]:
    cells = []
    for metric, (_, digits, unit) in COLUMNS.items():
        values = list(by_scene(clips, metric).values())
        cells.append(interval(median_interval(values).as_dict(), digits, unit) if values else "–")
    correct = list(by_scene(clips, "direction_subject_correct").values())
    lacking = [name for of in clips.values() for name in of if name != WITHOUT_TRUTH and of[name].value is None]
    return [*cells, f"{fmean(correct):.3f}" if correct else "–", str(len(lacking)) if lacking else ""]


def _without_truth(measured: Measured) -> str:
    """What the compensated drift that knows no truth makes of the same videos."""
    results = [of[WITHOUT_TRUTH] for clips in measured.values() for of in clips.values() if WITHOUT_TRUTH in of]
    known = sum(result.value is not None for result in results)
    reasons = Counter(result.unavailable for result in results if result.unavailable)
    most = f"; mostly: {reasons.most_common(1)[0][0]}" if reasons else ""
    return (
        "Compensated drift is `subject_drift_from_truth`: the subject's path less the true one, which is the camera's "
        f"doing. `{WITHOUT_TRUTH}`, which knows no truth, is available for {known} of {len(results)} videos{most}."
    )


def _paired(before: Mapping[str, ClipResults], after: Mapping[str, ClipResults]) -> list[str]:
    cells = []
    for metric in PAIRED:
        first, second = by_scene(before, metric), by_scene(after, metric)
        scenes = sorted(first.keys() & second.keys())
        if scenes:
            change = paired_difference([first[name] for name in scenes], [second[name] for name in scenes])
            cells.append(interval(change.as_dict(), COLUMNS[metric][1] + 1))
        else:
            cells.append("–")
    return cells


def figures(measured: Measured, folder: Path) -> list[Path]:
    """Box plots of the metrics that are paired, a picture each, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "musubi-ext", "svg.fonttype": "none"}
    )  # the same file for the same figures
    from matplotlib.figure import Figure

    made = []
    for metric in PAIRED:
        named = {name: list(by_scene(clips, metric).values()) for name, clips in measured.items()}
        shown = {name: values for name, values in named.items() if values}
        if not shown:
            continue
        figure = Figure(figsize=(7, 0.36 * len(shown) + 0.9), layout="constrained")
        axes = figure.subplots()
        _boxes(axes, list(shown), list(shown.values()))
        axes.set_xlabel(f"{COLUMNS[metric][0]}, a point a scene")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"reproduce_{metric}.svg"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        made.append(path)
    return made


def _boxes(axes: Any, names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    axes.boxplot(values, orientation="horizontal", tick_labels=names, widths=0.6, showfliers=False)
    for row, of in enumerate(values, 1):
        axes.plot(of, [row] * len(of), ".", markersize=3, alpha=0.4, color="#4a7fa5")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
