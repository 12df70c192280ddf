"""A candidate's results against the champion's: the gate's decision, MLflow's own, and the document that says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musubi_ext.evaluation.comparable import load
from musubi_ext.evaluation.compare import Comparison, compare
from musubi_ext.evaluation.decision import Decision
from musubi_ext.evaluation.gate import decide
from musubi_ext.evaluation.verdict import Verdict
from musubi_ext.registry.absolute import validated
from musubi_ext.registry.gate_file import Gate


@dataclass(frozen=True)
class Judgement:
    """`comparison` and `decision` with the `document` (plain JSON) that can be checked years later."""

    comparison: Comparison
    decision: Decision
    gate: Gate
    document: dict[str, Any]

    @property
    def verdict(self) -> Verdict:
        """As the pages of `musubi-ext compare` take it."""
        return Verdict(self.comparison, self.decision, self.gate.path, self.gate.sha256)


def judge(against: Path, candidate: Path, gate: Gate, facts: Mapping[str, Any], *, first: bool = False) -> Judgement:
    """Compare two results files and ask the gate, and MLflow for what is absolute; `facts` go into the document.

    `first`: there is no champion; `against` is the base without adapters, and only absolute thresholds are asked for.
    Raises UserError for results that cannot be compared.
    """
    comparison = compare(load(against), load(candidate))
    limits, left_out = gate.for_first_version() if first else (gate.thresholds, ())
    decision = validated(decide(comparison.base_results, comparison.pair_results, limits))
    document = Verdict(comparison, decision, gate.path, gate.sha256).as_dict()
    medians = {of.name: {"against": of.base, "candidate": of.pair} for of in comparison.metrics if of.differences}
    document |= {"medians": medians, "first_version": first, "left_out": list(left_out), **facts}
    return Judgement(comparison, decision, gate, document)
