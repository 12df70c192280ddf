"""Which judgement answered which question before: found again without parsing a gate or loading a metric.

The question names every byte that decided the answer: the gate's file, both versions' files, the base, the device, the
packages. Files that a gate names (prompts, pictures, learned weights) stand in the answer with their hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from musubi_ext import __version__
from musubi_ext.registry.evidence import VERDICT
from musubi_ext.storage import sha256, write_json

_LAYOUT = 1  # raised when what is kept changes its meaning
_PACKAGES = ("torch", "diffusers", "peft", "numpy", "scipy", "opencv-python-headless", "opencv-python", "mlflow")


@dataclass(frozen=True)
class Evidence:
    """A folder of evidence, the decision in it, and the SHA-256 of its verdict.json.

    `problems`: what could not be made or measured.
    """

    folder: Path
    decision: KeptDecision
    verdict_sha256: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeptDecision:
    """A decision as verdict.json keeps it."""

    document: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """As `evaluation.decision.Decision`."""
        return bool(self.document["passed"])

    @property
    def reasons(self) -> list[str]:
        """Why not; empty when passed."""
        return list(self.document["reasons"])

    @property
    def verdict(self) -> str:
        """`passed`, or the reasons in one line."""
        return "passed" if self.passed else "; ".join(self.reasons)

    def sentences(self) -> list[tuple[bool, str]]:
        """Each check: whether it passed, and what it says."""
        return [(check["passed"], check["message"]) for check in self.document["checks"]]

    def as_dict(self) -> dict[str, Any]:
        """The evidence as plain JSON values."""
        return {key: self.document[key] for key in ("passed", "reasons", "checks", "thresholds")}


def question(gate: Path, **facts: Any) -> dict[str, Any]:
    """What is asked, as JSON: the gate's bytes, our version and that of every package that matters, and `facts`."""
    packages = {name: _version(name) for name in _PACKAGES}
    return {"layout": _LAYOUT, "gate": sha256(gate), "made_by": __version__, "packages": packages, **facts}


def remember(root: Path, asked: Mapping[str, Any], evidence: Evidence, named: Iterable[Path]) -> None:
    """Keep the answer; `named` are the files outside that decided it as well.

    Not for a refusal, which may be for a learned metric whose weights are there by now.
    """
    files = {str(path.absolute()): sha256(path) for path in named}
    answer = {"folder": evidence.folder.name, "verdict": evidence.verdict_sha256, "files": files}
    write_json(_place(root, asked), answer)


def recall(root: Path, asked: Mapping[str, Any]) -> Evidence | None:
    """The answer, if every file behind it is what it was."""
    try:
        answer = json.loads(_place(root, asked).read_text(encoding="utf-8"))
        folder = judged_folder(root, Path(answer["folder"]).name)
        if sha256(folder / VERDICT) != answer["verdict"] or any(
            sha256(path) != digest for path, digest in answer["files"].items()
        ):
            return None
        document = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
        results = [document["inputs"][role] for role in ("base", "pair")]
        if any(sha256(folder / of["name"]) != of["sha256"] for of in results):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Evidence(folder, KeptDecision(document), answer["verdict"])


def judged_folder(root: Path, key: str) -> Path:
    """Where the evidence of one judgement lies."""
    return root / "judged" / key


def _place(root: Path, asked: Mapping[str, Any]) -> Path:
    return root / "answers" / f"{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()}.json"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
