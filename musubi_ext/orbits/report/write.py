"""What `data check` writes: report.json for programs, report.html for people.

report.json is strict JSON: {"schema_version", "data_set", "thresholds", "counts", "caption_directions", "clips":
[{"path", "state", "reasons": [{"check", "text"}], "values", "unavailable", …}]}. A value that could not be measured is
null, its reason under "unavailable". "caption_directions" has one entry per [[datasets]] table: which direction its
captions mean ("camera", "picture", or null with the reason), and how many of how many clips follow it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musubi_ext.errors import shown
from musubi_ext.orbits.checks.captions import Convention
from musubi_ext.orbits.checks.store import CheckStore
from musubi_ext.orbits.checks.thresholds import Thresholds
from musubi_ext.orbits.checks.verdicts import STATES, Verdict, conventions_of
from musubi_ext.orbits.config import DatasetConfig
from musubi_ext.orbits.report.page import write_page
from musubi_ext.storage import atomic_path

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Where the two files are."""

    json: Path
    html: Path


def write_report(
    folder: Path, config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict], store: CheckStore
) -> Report:
    """Write both files whole or not at all; the same data set and limits give the same bytes."""
    report = Report(folder / "report.json", folder / "report.html")
    _write_json(report.json, config, limits, verdicts)
    write_page(report.html, config, limits, verdicts, store)
    return report


def _write_json(path: Path, config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict]) -> None:
    """A line per clip, written one by one: the report of many clips is never in memory as a whole."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "data_set": shown(config.path),
        "thresholds": limits.as_dict(),
        "counts": counts(verdicts),
        "caption_directions": [_convention(one) for one in conventions_of(config, limits, verdicts)],
    }
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(head, indent=2, allow_nan=False).removesuffix("\n}") + ',\n  "clips": [')
        for index, verdict in enumerate(verdicts):
            clip = json.dumps(_clip(verdict), allow_nan=False, ensure_ascii=False)
            file.write(("," if index else "") + "\n    " + clip)
        file.write("\n  ]\n}\n")


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many clips are in each state."""
    found = Counter(verdict.state for verdict in verdicts)
    return {state: found[state] for state in STATES}


def _convention(found: Convention) -> dict[str, Any]:
    return {
        "dataset": found.dataset,
        "convention": found.name or None,
        "learned": found.learned if found.name else None,
        "follow": found.follow if found.name else None,
        "clips": found.clips,
        "unavailable": found.unavailable or None,
    }


def _clip(verdict: Verdict) -> dict[str, Any]:
    clip = verdict.measured
    return {
        "path": shown(verdict.listed.path),
        "dataset": verdict.listed.dataset,
        "state": verdict.state,
        "reasons": [{"check": reason.check, "text": reason.text} for reason in verdict.reasons],
        "sha256": verdict.sha256 or None,
        "caption": shown(verdict.listed.caption),
        "width": clip.width,
        "height": clip.height,
        "fps": clip.fps,
        "codec": clip.codec,
        "training_size": list(clip.size),
        "direction": clip.direction,
        "values": verdict.values,
        "unavailable": clip.unavailable,
    }
