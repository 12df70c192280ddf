"""The gate's answer: every question with what was measured, what was asked for, and a sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from musubi_ext.evaluation.thresholds import Thresholds


@dataclass(frozen=True)
class Check:
    """One question of the gate. `value` is what was measured (None if it could not be), `message` a full sentence."""

    name: str
    passed: bool
    message: str
    value: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Decision:
    """The gate's answer: passed if every check did."""

    checks: tuple[Check, ...]
    thresholds: Thresholds

    @property
    def passed(self) -> bool:
        """Whether the pair may be promoted."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why it may not; empty when it may."""
        return [check.message for check in self.checks if not check.passed]

    @property
    def verdict(self) -> str:
        """`passed`, or the reasons in one line."""
        return "passed" if self.passed else "; ".join(self.reasons)

    def as_dict(self) -> dict[str, Any]:
        """The evidence as plain JSON values."""
        return {"passed": self.passed, "reasons": self.reasons, **asdict(self)}
