"""The folder of evidence of one judgement: both models' results, the verdict, a page to look at, filmstrips."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musubi_ext.evaluation.report import write_compare_report
from musubi_ext.evaluation.result import results_document
from musubi_ext.evaluation.truth import Truth
from musubi_ext.filmstrip import save_filmstrip
from musubi_ext.promotion.index import Evidence, KeptDecision, judged_folder
from musubi_ext.promotion.shootings import Shooting, caption_of, digest_of
from musubi_ext.promotion.suite import Made
from musubi_ext.registry.evidence import VERDICT
from musubi_ext.registry.gate_file import Gate
from musubi_ext.registry.judgement import Judgement, judge
from musubi_ext.storage import sha256, write_json
from musubi_ext.video import read_video

CANDIDATE, CHAMPION, BASE = "candidate", "champion", "base"
PAGE, STRIPS = "compare.html", "filmstrips"


@dataclass(frozen=True)
class Side:
    """One of the two models: what it is called (CANDIDATE, CHAMPION or BASE), what is known of it, its videos."""

    label: str
    facts: Mapping[str, Any]
    shootings: Sequence[Shooting]

    def results(self, folder: Path) -> Path:
        """Its results file in a folder of evidence."""
        return folder / f"{self.label}.json"


def write_evidence(candidate: Side, against: Side, made: Sequence[Made], gate: Gate, root: Path) -> Evidence:
    """Judge what was `made` of the two, and write the folder, whole or not at all, replacing an earlier one."""
    folder = judged_folder(root, _key(candidate, against, made, gate))
    part = folder.with_name(f"{folder.name}.part-{secrets.token_hex(4)}")
    try:
        for side, of in zip((candidate, against), made, strict=True):
            _write_results(side.results(part), side, of, gate)
        facts = {"candidate": candidate.facts, "against": against.facts, "suite": {"sha256": gate.suite.digest()}}
        first = against.label == BASE
        found = judge(against.results(part), candidate.results(part), gate, facts, first=first)
        _draw(part, found, candidate, against)
        write_json(part / VERDICT, found.document)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    problems = tuple(problem for of in made for problem in of.problems)
    return Evidence(folder, KeptDecision(found.document), sha256(folder / VERDICT), problems)


def _key(candidate: Side, against: Side, made: Sequence[Made], gate: Gate) -> str:
    results = [results_document(of.results)["clips"] for of in made]
    return digest_of([results, dict(candidate.facts), dict(against.facts), gate.sha256])


def _write_results(path: Path, side: Side, made: Made, gate: Gate) -> None:
    settings = {"suite": gate.suite.digest(), "masks": gate.suite.masks, "profile": gate.suite.profile}
    document = results_document(made.results, settings)
    write_json(path, document | {"scenes": dict(made.scenes), "model": dict(side.facts)})


def _draw(folder: Path, found: Judgement, candidate: Side, against: Side) -> None:
    """The page with the scenes that changed most, and a filmstrip of every scene."""
    before, after = (_videos(side) for side in (against, candidate))
    page = folder / PAGE
    write_compare_report(found.comparison, page, verdict=found.verdict, base_videos=before, pair_videos=after)
    for job in candidate.shootings:
        name = job.scene.name
        rows = {} if job.truth is None else {"ground truth": Truth.load(job.truth).frames}
        for label, videos in ((against.label, before), (candidate.label, after)):
            if name in videos:
                rows[label] = read_video(videos[name])[0]
        if rows:
            save_filmstrip(folder / STRIPS / f"{name}.png", rows, caption=caption_of(job))


def _videos(side: Side) -> dict[str, Path]:
    """Those that could be made, by clip."""
    return {job.scene.name: job.video for job in side.shootings if job.video.is_file()}
