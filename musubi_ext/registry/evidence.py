"""What a decision rests on, kept where the candidate's run keeps its files and named by hash on the version."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.names import check_digest, check_run_id
from musubi_ext.registry.store import STORE_ERRORS, first_line
from musubi_ext.registry.versions import address
from musubi_ext.storage import sha256, write_json

GATE_TAG = "gate"  # "passed", or "refused: …"
RECORD_TAG = "evidence.sha256"  # of evidence.json
PLACE_TAG = "evidence.artifact"  # runs:/RUN/evidence/…/evidence.json
VERDICT_TAG = "verdict.sha256"  # of verdict.json beside it
RECORD, VERDICT = "evidence.json", "verdict.json"
_FOLDER = "evidence"
_LONGEST = 5000  # characters of a tag's sentence; the record has it whole


class Decided(Protocol):
    """A gate's answer: `evaluation.decision.Decision`, or one that was kept."""

    @property
    def passed(self) -> bool:
        """Whether the version may be promoted."""

    @property
    def reasons(self) -> list[str]:
        """Why it may not."""

    @property
    def verdict(self) -> str:
        """`passed`, or the reasons in one line."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""


@dataclass(frozen=True)
class Stored:
    """Where evidence lies: SHA-256 of its record, and the record's address."""

    digest: str
    place: str


def store(
    client: MlflowClient,
    version: Any,
    decision: Decided,
    evidence: Mapping[str, Any],
    against: int | None,
    files: Sequence[Path | str] = (),
) -> Stored:
    """Log decision, `evidence` (strict JSON) and `files` (also folders) on the version's run; name them in its tags.

    A file called verdict.json is named by its own hash too. Raises ValueError for evidence that is no JSON.
    """
    record = {
        "name": version.name,
        "version": int(version.version),
        "against": against,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "decision": decision.as_dict(),
        "evidence": dict(evidence),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RECORD
        write_json(path, record)
        digest = sha256(path)
        target = f"{_FOLDER}/{version.name}-v{version.version}-{digest[:12]}"
        for file in (path, *map(Path, files)):
            if file.is_dir():
                client.log_artifacts(version.run_id, str(file), target)
            else:
                client.log_artifact(version.run_id, str(file), target)
    stored = Stored(digest, f"runs:/{version.run_id}/{target}/{RECORD}")
    gate = decision.verdict if decision.passed else f"refused: {decision.verdict}"
    tags = {GATE_TAG: gate[:_LONGEST], RECORD_TAG: digest, PLACE_TAG: stored.place}
    if verdict := _verdict_in(files):
        tags[VERDICT_TAG] = sha256(verdict)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, str(version.version), key, value)
    return stored


def fetch_verdict(client: MlflowClient, version: Any, folder: Path) -> tuple[Path, str]:
    """The version's verdict.json, downloaded to `folder`, and its SHA-256, which is the one in the version's tags.

    Raises UserError when there is none, or another than the tags name.
    """
    place, digest = version.tags.get(PLACE_TAG, ""), version.tags.get(VERDICT_TAG, "")
    if not place or not digest:
        raise UserError(
            f"{address(version)}: there is no verdict to look at (musubi-ext registry promote {version.name} first)"
        )
    run, _, path = place.removeprefix("runs:/").partition("/")
    if ".." in path or not path.startswith(f"{_FOLDER}/") or not path.endswith(f"/{RECORD}"):
        raise UserError(f"{address(version)}: tag {PLACE_TAG}: not an address of evidence (promote it again)")
    import mlflow.artifacts

    where = f"{path.removesuffix(RECORD)}{VERDICT}"
    try:
        local = mlflow.artifacts.download_artifacts(
            run_id=check_run_id(run), artifact_path=where, dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    except STORE_ERRORS as error:
        raise UserError(f"{address(version)}: {where} cannot be read from the store: {first_line(error)}") from error
    found = sha256(local)
    if found != check_digest(digest):
        raise UserError(
            f"{address(version)}: {where} is not the evidence that was judged: expected sha256 {digest}, found {found} "
            "(promote it again)"
        )
    return Path(local), found


def _verdict_in(files: Sequence[Path | str]) -> Path | None:
    for file in map(Path, files):
        inside = file / VERDICT if file.is_dir() else file
        if inside.name == VERDICT and inside.is_file():
            return inside
    return None
