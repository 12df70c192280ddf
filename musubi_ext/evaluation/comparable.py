"""Two results files side by side: which clips show the same scene, and whether both were measured in the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musubi_ext.errors import Problems, shown
from musubi_ext.evaluation.result import Result, read_results
from musubi_ext.storage import sha256

SCENE = ("prompt", "first_frame", "seed")  # what makes a scene the same
_NAMES = {"backend": "metric version", "masks": "mask provider", "frames": "frames used"}
_LISTED = 8  # names in one message
_MASKED = ("subject_drift", "mask_iou")  # looked at frames with a mask only, before results stated their coverage


@dataclass(frozen=True)
class ResultsFile:
    """A results file: results by clip and metric, the run's settings, and the scene of each clip that states one.

    `stated` is each result's raw fields: a file of version 1 leaves out what version 2 states.
    """

    path: Path
    sha256: str
    clips: Mapping[str, Mapping[str, Result]]
    stated: Mapping[str, Mapping[str, Mapping[str, Any]]]
    settings: Mapping[str, Any]
    scenes: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The file's name, on one line."""
        return shown(self.path.name)

    def record(self) -> dict[str, str]:
        """Name (never a path) and SHA-256, for evidence."""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Pairing:
    """The scenes of both files, under one label each, and the clip that shows it in either file."""

    base: Mapping[str, str]  # label → clip
    pair: Mapping[str, str]


def load(path: Path | str) -> ResultsFile:
    """Read a results file with its settings and scenes. Raises UserError for what is not one, or holds no clip."""
    path, problems = Path(path), Problems()
    clips = read_results(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    if not clips:
        problems.add(path, "holds no clip", "evaluate a folder of videos first")
    tables = {name: document.get(name, {}) for name in ("settings", "scenes")}
    for name, found in tables.items():
        if not isinstance(found, dict):
            problems.add(path, f"{name}: expected a table, found {found!r}")
    problems.raise_if_any()
    scenes = {clip: scene for clip, scene in tables["scenes"].items() if clip in clips and isinstance(scene, dict)}
    return ResultsFile(path, sha256(path), clips, document["clips"], tables["settings"], scenes)


def comment(text: str) -> dict[str, Any]:
    """The table that a generated mp4 carries as its comment; empty for a comment of anyone else's."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def scene_of(comment: Mapping[str, Any]) -> dict[str, Any] | None:
    """Prompt, first frame (SHA-256) and seed from what a generated mp4 carries (`comment`); None for others."""
    request = comment.get("request")
    if not isinstance(request, Mapping) or not {"prompt", "first", "seed"} <= request.keys():
        return None
    first = request["first"]
    frame = first.get("sha256") if isinstance(first, Mapping) else None
    return {"prompt": request["prompt"], "first_frame": frame, "seed": request["seed"]}


def pair_up(base: ResultsFile, pair: ResultsFile) -> Pairing:
    """Which clips show the same scene: by prompt, first frame and seed where every clip states them, else by name.

    Raises UserError naming every clip without a partner, every scene shown twice, and clips of one name whose scenes
    differ.
    """
    problems = Problems()
    if all(set(file.scenes) == set(file.clips) for file in (base, pair)):
        found = [_by_scene(file, problems) for file in (base, pair)]
    else:
        found = [{clip: clip for clip in file.clips} for file in (base, pair)]
        for clip in base.scenes.keys() & pair.scenes.keys():
            _same_scene(clip, base.scenes[clip], pair.scenes[clip], problems)
    for file, here, there in ((base, found[0], found[1]), (pair, found[1], found[0])):
        if alone := [here[key] for key in here if key not in there]:
            problems.add(file.path, f"{_listed(alone)}: no clip of the same scene in the other file")
    problems.raise_if_any()
    labels = found[0]  # a scene goes by the base's name for it
    return Pairing({label: label for label in labels.values()}, {labels[key]: found[1][key] for key in labels})


def differing_settings(base: ResultsFile, pair: ResultsFile, pairing: Pairing) -> list[str]:
    """What was measured in another way, one sentence each: resolution, frames, stride, unit, version, masks, licence.

    Only what both files state counts, and only results with a value: another reason is not another setting. Frames
    used may differ where a subject was not found in all of them, for the coverage says that.
    """
    found = [
        f"setting {name}: {base.settings.get(name)!r} in {base.name}, {pair.settings.get(name)!r} in {pair.name}"
        for name in sorted(base.settings.keys() & pair.settings.keys())
        if base.settings[name] != pair.settings[name]
    ]
    unlike: dict[tuple[str, str, str, str], list[str]] = {}
    for label in pairing.base:
        a, b = base.stated[pairing.base[label]], pair.stated[pairing.pair[label]]
        for metric in [name for name in a if name in b]:
            for key, values in _unlike(metric, a[metric], b[metric]).items():
                unlike.setdefault((metric, key, *values), []).append(label)
    merged: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (metric, key, here, there), labels in unlike.items():
        merged.setdefault((key, here, there, tuple(labels)), []).append(metric)
    for (key, here, there, scenes), metrics in merged.items():
        what = f"{_NAMES.get(key, key)} of {_listed(metrics)}"
        found.append(f"{what}: {here} in {base.name}, {there} in {pair.name} ({_scenes(scenes, len(pairing.base))})")
    return found


def _unlike(metric: str, base: Mapping[str, Any], pair: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    keys = ["resolution", "unit"]
    if base.get("value") is not None and pair.get("value") is not None:
        keys += ["backend", "masks", "licence"]
        if all(_all_frames(metric, of) for of in (base, pair)):
            keys += ["frames", "stride"]
    return {
        key: (str(base[key]) or "none", str(pair[key]) or "none")  # "" says that there are none
        for key in keys
        if key in base and key in pair and base[key] != pair[key]
    }


def _all_frames(metric: str, of: Mapping[str, Any]) -> bool:
    """Whether no frame was left out because its subject was not found."""
    return of.get("coverage") in (None, 1) if "masks" in of else metric not in _MASKED


def _by_scene(file: ResultsFile, problems: Problems) -> dict[str, str]:
    by: dict[str, str] = {}
    for clip, scene in file.scenes.items():
        key = json.dumps([scene.get(name) for name in SCENE], ensure_ascii=False)
        if key in by:
            problems.add(file.path, f"{_listed([by[key], clip])} show the same prompt, first frame and seed")
        by[key] = clip
    return by


def _same_scene(clip: str, base: Mapping[str, Any], pair: Mapping[str, Any], problems: Problems) -> None:
    for name in SCENE:
        if name in base and name in pair and base[name] != pair[name]:
            problems.add(shown(clip), f"{name}: {base[name]!r} in the base's file, {pair[name]!r} in the pair's")


def _scenes(labels: tuple[str, ...], count: int) -> str:
    return "every scene" if len(labels) == count else _listed(labels)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    listed = ", ".join(shown(name) for name in names[:_LISTED])
    return listed + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
