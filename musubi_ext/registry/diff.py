"""Two versions side by side: what was trained on what, how, what it measured, and which bits differ."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient

from musubi_ext.adapters.compare import compare_manifests, compare_weights
from musubi_ext.adapters.manifest import read_manifest
from musubi_ext.errors import UserError
from musubi_ext.registry.downloads import cached, changed, fetch
from musubi_ext.registry.evidence import PLACE_TAG, RECORD, RECORD_TAG
from musubi_ext.registry.model import open_pair
from musubi_ext.registry.places import evidence_place
from musubi_ext.registry.store import STORE_ERRORS, first_line
from musubi_ext.registry.versions import address, checksums
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import sha256

SECTIONS = ("data", "training", "inference", "evaluation", "manifest", "files")
_EVALUATION = "evaluation."  # prefix of tags with numbers, see register_pair
_OF = {"dataset_fingerprint": "data", "training": "training", "inference": "inference", "evaluation": "evaluation"}


@dataclass(frozen=True)
class Difference:
    """One entry of two versions, None where there is none; `section` is one of SECTIONS."""

    section: str
    key: str
    a: Any
    b: Any

    @property
    def change(self) -> float | None:
        """b − a of two numbers."""
        numbers = all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in (self.a, self.b))
        return self.b - self.a if numbers else None


@dataclass(frozen=True)
class VersionDiff:
    """`weights`: expert → adapters.compare.compare_weights, None where not asked; `notes`: what could not be read."""

    a: str
    b: str
    differences: tuple[Difference, ...]
    weights: dict[str, Any] | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"a": self.a, "b": self.b, "weights": self.weights, "notes": list(self.notes)} | {
            "differences": [asdict(one) | {"change": one.change} for one in self.differences]
        }


def diff_versions(client: MlflowClient, a: Any, b: Any, *, weights: bool = False) -> VersionDiff:
    """What differs between two `ModelVersion`s. Downloads their manifests, and all three files with `weights`.

    Raises UserError when a file is not the one that was registered.
    """
    notes: list[str] = []
    manifests = compare_manifests(_manifest(client, a), _manifest(client, b))
    numbers = compare_manifests(_numbers(client, a, notes), _numbers(client, b, notes))
    files = compare_manifests(_files(a), _files(b))
    found = [Difference(_OF.get(key.partition(".")[0], "manifest"), key, *sides) for key, sides in manifests.items()]
    found += [Difference("evaluation", key, *sides) for key, sides in numbers.items()]
    found += [Difference("files", key, *sides) for key, sides in files.items()]
    found.sort(key=lambda one: (SECTIONS.index(one.section), one.key))
    return VersionDiff(address(a), address(b), tuple(found), _weights(client, a, b) if weights else None, tuple(notes))


def _manifest(client: MlflowClient, version: Any) -> dict[str, Any]:
    """The manifest, verified; the weights are not downloaded."""
    expected = {name: digest for name, digest in checksums(version).items() if name.endswith(".json")}
    if len(expected) != 1:
        raise UserError(f"{address(version)}: it carries no checksum of one manifest (register the pair again)")
    ((name, digest),) = expected.items()
    with tempfile.TemporaryDirectory() as folder:
        path = fetch(client, version, name, Path(folder))
        if (found := sha256(path)) != digest:
            raise UserError(f"{address(version)}: {name} {changed(digest, found)} (register the pair again)")
        return read_manifest(path)


def _files(version: Any) -> dict[str, str]:
    """By what a file is, since two pairs are seldom called the same."""
    return {_role(name): f"{digest}  {name}" for name, digest in checksums(version).items()}


def _role(name: str) -> str:
    roles = {".pair.json": "manifest", "_h.safetensors": "high", "_l.safetensors": "low"}
    return next((role for ending, role in roles.items() if name.endswith(ending)), name)


def _numbers(client: MlflowClient, version: Any, notes: list[str]) -> dict[str, Any]:
    """Numbers of the version's tags, and of the evidence that its gate judged."""
    tags = {key.removeprefix(_EVALUATION): value for key, value in version.tags.items() if key.startswith(_EVALUATION)}
    numbers: dict[str, Any] = {f"registered.{key}": _number(value) for key, value in tags.items()}
    if PLACE_TAG in version.tags:
        try:
            record = _evidence(client, version)
        except UserError as error:
            notes.append(str(error))
        else:
            numbers |= dict(_leaves(record.get("evidence"), "evidence."))
            numbers |= dict(_checks(record.get("decision")))
    return numbers


def _number(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def _evidence(client: MlflowClient, version: Any) -> dict[str, Any]:
    """The record of what was judged. Raises UserError when it is not there, or not what the tags name by hash."""
    where, place = f"{address(version)}: its evidence", evidence_place(version)
    if place is None:
        raise UserError(f"{where}: tag {PLACE_TAG} is not an address that musubi-ext writes")
    with tempfile.TemporaryDirectory() as folder:
        try:
            local = mlflow.artifacts.download_artifacts(
                run_id=place[0],
                artifact_path=f"{place[1]}/{RECORD}",
                dst_path=folder,
                tracking_uri=client.tracking_uri,
            )
            expected, found = version.tags.get(RECORD_TAG), sha256(local)
            record = json.loads(Path(local).read_text(encoding="utf-8"), parse_constant=str)
        except (*STORE_ERRORS, ValueError, RecursionError) as error:
            raise UserError(f"{where} cannot be read from the store: {first_line(error)}") from error
    if found != expected or not isinstance(record, dict):
        raise UserError(f"{where} is not what was judged: expected sha256 {expected}, found {found}")
    return record


def _checks(decision: Any) -> Iterator[tuple[str, Any]]:
    checks = decision.get("checks") if isinstance(decision, Mapping) else None
    for check in checks if isinstance(checks, list) else ():
        if isinstance(check, Mapping) and isinstance(check.get("value"), (int, float)):
            yield f"gate.{check.get('name')}", check["value"]


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}{key}.")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield prefix.removesuffix("."), value


def _weights(client: MlflowClient, a: Any, b: Any) -> dict[str, Any]:
    pairs = [open_pair(cached(client, version), version) for version in (a, b)]
    return {expert.value: compare_weights(*(pair.state_dict(expert) for pair in pairs)) for expert in Expert}
