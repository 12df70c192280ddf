"""Candidate and champion, or the base alone, filmed and measured on the gate's suite and judged.

It stands above generation, evaluation and registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import UserError
from musubi_ext.generation.presets import manifest_settings, preset
from musubi_ext.promotion.base import POCKET
from musubi_ext.promotion.evidence import BASE, CANDIDATE, CHAMPION, Side, write_evidence
from musubi_ext.promotion.index import Evidence
from musubi_ext.promotion.shootings import shootings
from musubi_ext.promotion.suite import make_all
from musubi_ext.registry.gate_file import Gate

if TYPE_CHECKING:
    from rich.console import Console

    from musubi_ext.promotion.run import Stage, Version


def judged(
    new: Version, old: Version | None, gate: Gate, stage: Stage, workers: int | None, console: Console
) -> Evidence:
    """Make what is missing of both models' videos and results, and judge them.

    Raises UserError where only the pocket's suite is there for another model, and for a base that cannot be used.
    """
    task = str(new.manifest["task"])
    if task != POCKET and not gate.written:
        raise UserError(f"{gate.path}: no [suite], and the default one is the pocket's: {task} needs scenes of its own")
    candidate = _side(CANDIDATE, new, new, gate, stage)
    against = _side(BASE, None, new, gate, stage) if old is None else _side(CHAMPION, old, old, gate, stage)
    made = make_all([candidate.shootings, against.shootings], console, workers)
    return write_evidence(candidate, against, made, gate, stage.root)


def files_named(gate: Gate) -> Iterator[Path]:
    """Every file beside the gate's that decides what is measured."""
    yield from gate.suite.files
    if gate.suite.models is not None:
        yield from (path for path in gate.suite.models.rglob("*") if path.is_file())


def _side(label: str, pair: Version | None, of: Version, gate: Gate, stage: Stage) -> Side:
    """A model to film. Settings that the suite leaves open are those of the pair `of`, as it would be served."""
    found = shootings(
        gate.suite,
        stage.root,
        pair=None if pair is None else pair.folder,
        pair_digest=None if pair is None else pair.digest,
        base=stage.base,
        base_digest=stage.digest,
        device=stage.device,
        settings=_settings(of, gate),
        asked=gate.asked(),
    )
    return Side(label, {"base_sha256": stage.digest, **({} if pair is None else pair.facts())}, found)


def _settings(version: Version, gate: Gate) -> dict[str, Any]:
    own = preset(str(version.manifest["task"])) | manifest_settings(version.manifest.get("inference") or {})
    return {**own, **gate.suite.settings, "size": gate.suite.size, "frames": gate.suite.frames}
