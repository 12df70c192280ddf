"""Steps `evaluate` and `promote`: the pair beside the base on the gate's suite, then the registry's decision."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.evaluation.result import read_results
from musubi_ext.evaluation.summary import aggregate
from musubi_ext.pipeline import contents
from musubi_ext.promotion.base import base_digest
from musubi_ext.promotion.run import Stage as Filmed
from musubi_ext.promotion.run import Version, promote_candidate
from musubi_ext.registry.downloads import cache_root, content_key
from musubi_ext.registry.model import register_pair, training_run
from musubi_ext.registry.names import ModelReference
from musubi_ext.registry.promotion import set_candidate
from musubi_ext.registry.store import STORE_ERRORS, connect
from musubi_ext.registry.versions import checksums, find_version, versions

if TYPE_CHECKING:
    from musubi_ext.pipeline.settings import Settings
    from musubi_ext.pipeline.steps import Pipeline

_FINAL = ("promoted", "already", "refused")  # another outcome is asked again


@dataclass(frozen=True)
class OnDisk(Version):
    """A pair that is no version yet; its videos are kept under the key that they will have as one's."""

    def facts(self) -> dict[str, Any]:
        """Which bytes were judged."""
        return {"pair": str(self.manifest["name"]), "key": self.digest}


def evaluate(work: Pipeline) -> Mapping[str, Any]:
    """Film and measure base and pair; fill `evaluation`. Raises UserError when a video could not be measured."""
    from musubi_ext.promotion.judge import judged
    from musubi_ext.registry.gate_file import Gate

    settings, layout = work.options, work.layout
    pair = load(settings)
    files = contents.pair(settings)
    assert files is not None  # it was loaded
    root = cache_root().parent / "promotion"
    where = Filmed(settings.base, base_digest(settings.base, root / "bases.json"), settings.device, root)
    subject = OnDisk(None, layout.pair.absolute(), content_key(files), pair.manifest)
    found = judged(subject, None, Gate.load(settings.gate), where, settings.workers, work.console)
    if found.problems:
        raise UserError(list(found.problems))
    part = layout.evaluation.with_name(f"{layout.evaluation.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(found.folder, part)
    shutil.rmtree(layout.evaluation, ignore_errors=True)
    os.replace(part, layout.evaluation)
    work.runs.metrics(numbers(settings))
    work.runs.tags({"gate": found.decision.verdict[:5000]})
    work.runs.artifacts(layout.evaluation, "evaluation")
    for passed, sentence in found.decision.sentences():
        _say(work, f"      {'passed' if passed else 'failed'}: {sentence}")
    return {"verdict": found.verdict_sha256}


def promote(work: Pipeline) -> Mapping[str, Any]:
    """Register the pair if no version has its files, make it the candidate, and let the gate decide.

    Refused is an answer, and no error. Raises UserError where there is nothing to promote.
    """
    settings = work.options
    pair = load(settings)
    version = _version(work, pair)
    set_candidate(settings.name, version, uri=work.uri)
    result = promote_candidate(
        settings.name,
        settings.gate,
        uri=work.uri,
        base=settings.base,
        require_approval=settings.require_approval == "yes",
        device=settings.device,
        workers=settings.workers,
        console=work.console,
    )
    why = "" if result.promoted else f": {'; '.join(result.reasons)}"
    _say(work, f"      models:/{settings.name}/{result.version} {result.outcome}{why}")
    _say(work, f"      champion = {result.champion}, previous = {result.previous}")
    tags = {"promotion": result.outcome, "model": f"models:/{settings.name}/{result.version}"}
    work.runs.tags(tags | ({"evidence": result.evidence} if result.evidence else {}), above=True)
    return {"outcome": result.outcome, "version": result.version, "why": list(result.reasons)}


def standing(work: Pipeline, result: Mapping[str, Any]) -> bool:
    """Whether the answer was a final one and the store still has the version, with these files."""
    if result.get("outcome") not in _FINAL:
        return False
    try:
        reference = ModelReference(work.options.name, version=int(result["version"]))
        version = find_version(connect(work.uri), reference)
        return checksums(version) == contents.pair(work.options)
    except (UserError, *STORE_ERRORS):
        return False


def load(settings: Settings) -> AdapterPair:
    """The pair in the pipeline's folder, verified. Raises UserError where there is none."""
    manifest = settings.layout.pair / f"{settings.output_name}.pair.json"
    if not manifest.is_file():
        raise UserError(f"{manifest}: expected a trained pair, found none (run the step train first)")
    return AdapterPair.load(manifest)


def numbers(settings: Settings) -> dict[str, float]:
    """`pair.psnr`, `base.subject_drift`, …: medians over the suite's scenes."""
    found = {}
    for model, file in (("base", "base"), ("pair", "candidate")):
        row = aggregate(read_results(settings.layout.evaluation / f"{file}.json"))
        for name, value in row.items():
            number = value.get("median") if isinstance(value, dict) else value
            if isinstance(number, int | float) and not isinstance(number, bool):
                found[f"{model}.{name}"] = float(number)
    return found


def _version(work: Pipeline, pair: AdapterPair) -> int:
    """The newest version with these files, or a new one."""
    settings, client = work.options, connect(work.uri)
    files = contents.pair(settings)
    for version in versions(client, settings.name):
        if checksums(version) == files:
            return int(version.version)
    told = numbers(settings) if _evaluated(settings) else None
    return register_pair(
        pair, settings.name, evaluation=told, run_id=training_run(client, pair), uri=work.uri,
        experiment=work.runs.experiment,
    )  # fmt: skip


def _evaluated(settings: Settings) -> bool:
    """Whether what lies in `evaluation` is of the pair that lies in `pair`."""
    try:
        document = json.loads((settings.layout.evaluation / "candidate.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(document["model"]["key"] == content_key(contents.pair(settings) or {}))


def _say(work: Pipeline, text: str) -> None:
    work.console.print(text, markup=False, highlight=False, soft_wrap=True)
