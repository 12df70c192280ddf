"""`musubi-ext registry promote`: judge the candidate, keep the evidence, move the alias.

The files of both versions are verified before anything else. Nothing is made or judged twice: videos, results and
judgements are kept by content in the cache's `promotion` folder, and what is only looked up loads no metric.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient

from musubi_ext.errors import Problems, UserError
from musubi_ext.promotion.base import POCKET, base_digest, base_folder
from musubi_ext.promotion.index import Evidence, KeptDecision, question, recall, remember
from musubi_ext.registry.alias_moves import Pointers
from musubi_ext.registry.downloads import cache_root, cached, content_key, store_problems
from musubi_ext.registry.names import CANDIDATE, ModelReference, check_name
from musubi_ext.registry.promotion import ALREADY, Outcome, Promotion, clear_up, promote_version
from musubi_ext.registry.store import connect, tracking_uri
from musubi_ext.registry.versions import address, checksums, find_version

if TYPE_CHECKING:
    from rich.console import Console

_SAME_BASE = ("task", "serve_base", "boundary", "transformer")  # of two pairs' manifests


@dataclass(frozen=True)
class Version:
    """A registered version whose files were verified on this machine."""

    entity: Any  # mlflow.entities.model_registry.ModelVersion
    folder: Path
    digest: str
    manifest: Mapping[str, Any]

    @property
    def number(self) -> int:
        """Of the version."""
        return int(self.entity.version)

    def facts(self) -> dict[str, Any]:
        """For the verdict: which bytes were judged."""
        return {"model": self.entity.name, "version": self.number, "sha256": checksums(self.entity)}


@dataclass(frozen=True)
class Stage:
    """Where it is filmed: the base and its SHA-256, the device, and the folder that keeps what was made."""

    base: str
    digest: str
    device: str
    root: Path


def promote_candidate(
    name: str,
    gate: Path | str,
    *,
    uri: str | None = None,
    base: str | None = None,
    dry_run: bool = False,
    require_approval: bool = False,
    device: str = "cpu",
    workers: int | None = None,
    console: Console | None = None,
) -> Promotion:
    """Judge the candidate of `name` on the suite of the TOML `gate` and make it the champion if it passes.

    The first version is compared with the base alone, by absolute thresholds only. `base`: the pipeline to film on,
    else the pocket for pocket pairs. `dry_run`: judge, store and move nothing. `require_approval`: move nothing before
    somebody else has approved the verdict. Raises UserError for a bad gate, for files that are not what was registered,
    and for a base that cannot be used.
    """
    uri, gate = tracking_uri(uri), Path(gate)
    if not gate.is_file():
        raise UserError(f"{gate}: expected the gate's TOML, found none (--gate FILE.toml)")
    client = connect(uri)
    candidate = find_version(client, ModelReference(check_name(name), alias=CANDIDATE))
    before = Pointers.now(client, name) if dry_run else Pointers.of(clear_up(client, name, uri))
    if before.champion == int(candidate.version):
        return Promotion(name, before.champion, False, (ALREADY,), before.champion, before.previous, "already")
    _check_store(client, candidate)
    new, old = _verified(client, candidate), None
    if before.champion is not None:
        old = _verified(client, find_version(client, ModelReference(name, version=before.champion)))
    found = _foreign(new, old) or _judged(new, old, gate, _stage(new, base, device), workers, console)
    _say(found, console)
    if dry_run:
        outcome: Outcome = "promoted" if found.decision.passed else "refused"
        reasons = tuple(found.decision.reasons)
        return Promotion(name, new.number, False, reasons, before.champion, before.previous, outcome)
    record: dict[str, Any] = {"candidate": new.facts(), "champion": None if old is None else old.facts()}
    if found.verdict_sha256:
        medians = found.decision.document["medians"]
        record |= {"verdict.json": found.verdict_sha256, "medians": medians, "problems": list(found.problems)}
    files = [found.folder] if found.verdict_sha256 else []
    approve = found.verdict_sha256 if require_approval else None
    return promote_version(
        client, candidate, before.champion, found.decision, record, uri=uri, files=files, approve_verdict=approve
    )


def _verified(client: MlflowClient, version: Any) -> Version:
    folder, files = cached(client, version), checksums(version)
    manifest = next(name for name in files if name.endswith(".json"))
    content = json.loads((folder / manifest).read_text(encoding="utf-8"))
    return Version(version, folder, content_key(files), content)


def _check_store(client: MlflowClient, version: Any) -> None:
    """Raise UserError for files that are not the registered ones where everybody else will load them from.

    This machine's verified copy would hide that.
    """
    with tempfile.TemporaryDirectory() as folder:
        wrong = store_problems(client, version, Path(folder))
    problems = Problems()
    for name, problem in wrong.items():
        if problem:
            problems.add(address(version), f"{name}: {problem}", "register the pair again from its training output")
    problems.raise_if_any()


def _foreign(new: Version, old: Version | None) -> Evidence | None:
    """The refusal of a candidate that cannot be compared, for it is made for another model. None where it can."""
    unlike = [
        f"{key} {new.manifest.get(key)!r} (the champion's is {old.manifest.get(key)!r})"
        for key in _SAME_BASE
        if old is not None and new.manifest.get(key) != old.manifest.get(key)
    ]
    if not unlike or old is None:
        return None
    why = f"version {new.number} is for another base than the champion, version {old.number}: {', '.join(unlike)}"
    check = {"name": "base", "passed": False, "message": why, "value": None, "threshold": None}
    document = {"passed": False, "reasons": [why], "checks": [check], "thresholds": {}}
    return Evidence(Path(), KeptDecision(document), "")


def _stage(version: Version, base: str | None, device: str) -> Stage:
    """Raises UserError where nobody said which base, or where there is none."""
    if base is None and version.manifest["task"] != POCKET:
        raise UserError(
            f"{address(version.entity)}: made for {version.manifest['serve_base']}: say where that is (--base FOLDER)"
        )
    named = POCKET if base in (None, POCKET) else str(base_folder(str(base)))
    if not (base_folder(named) / "model_index.json").is_file():
        raise UserError(f"--base {base}: expected a diffusers pipeline folder, found no model_index.json in it")
    root = cache_root().parent / "promotion"
    return Stage(named, base_digest(named, root / "bases.json"), device, root)


def _judged(
    new: Version, old: Version | None, gate: Path, stage: Stage, workers: int | None, console: Console | None
) -> Evidence:
    against = None if old is None else old.facts()
    asked = question(gate, candidate=new.facts(), against=against, base=stage.digest, device=stage.device)
    if found := recall(stage.root, asked):
        return found
    from musubi_ext.promotion.judge import files_named, judged  # evaluation and generation take seconds to load
    from musubi_ext.registry.gate_file import Gate

    read = Gate.load(gate)
    found = judged(new, old, read, stage, workers, console or _console())
    if found.decision.passed and not found.problems and read.sha256 == asked["gate"]:
        remember(stage.root, asked, found, files_named(read))
    return found


def _say(found: Evidence, console: Console | None) -> None:
    lines = [f"not measured: {problem}" for problem in found.problems]
    lines += [f"{'passed' if passed else 'failed'}: {message}" for passed, message in found.decision.sentences()]
    for line in lines:
        if console is None:
            print(line, file=sys.stderr)
        else:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)
