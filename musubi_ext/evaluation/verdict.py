"""The verdict: what the gate decided, over what, from which bytes. A JSON document that can be checked years later."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from musubi_ext import __version__
from musubi_ext.errors import shown
from musubi_ext.evaluation.compare import Comparison
from musubi_ext.evaluation.decision import Decision
from musubi_ext.evaluation.gate import decide
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.storage import sha256, write_json

SCHEMA = "musubi-ext/verdict"
VERSION = 1


@dataclass(frozen=True)
class Verdict:
    """A decision and its evidence. `gate` names the TOML (None: the defaults)."""

    comparison: Comparison
    decision: Decision
    gate: Path | None
    gate_sha256: str | None

    def as_dict(self) -> dict[str, Any]:
        """Schema, version, answer, every check with value, threshold and sentence, what was compared, input hashes."""
        compared = self.comparison
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "made_by": f"musubi-ext {__version__}",
            "passed": self.decision.passed,
            "reasons": self.decision.reasons,
            "checks": [asdict(check) for check in self.decision.checks],
            "thresholds": asdict(self.decision.thresholds),
            "compared": {
                "scenes": list(compared.pairing.base),
                "metrics": [metric.name for metric in compared.metrics],
                "unavailable": {metric.name: len(metric.lacking) for metric in compared.metrics if metric.lacking},
            },
            "inputs": {
                "base": compared.base.record(),
                "pair": compared.pair.record(),
                "gate": None if self.gate is None else {"name": shown(self.gate.name), "sha256": self.gate_sha256},
            },
        }

    def write(self, path: Path | str) -> None:
        """Write the document, whole or not at all."""
        write_json(path, self.as_dict())


def judge(comparison: Comparison, gate: Path | None = None) -> Verdict:
    """Ask the gate about a comparison; `gate`: its TOML, or the defaults. Raises UserError for its mistakes."""
    limits = Thresholds() if gate is None else Thresholds.load(gate)
    digest = None if gate is None else sha256(gate)
    return Verdict(comparison, decide(comparison.base_results, comparison.pair_results, limits), gate, digest)
