"""A gate TOML as a promotion reads it: what has to be shown, and on which scenes it is looked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import toml

from musubi_ext.errors import Problems, UserError
from musubi_ext.evaluation.metric_limits import MetricLimits
from musubi_ext.evaluation.motion_floor import MAGNITUDE, RATIO
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.registry.suite_config import ALL, Suite, parse_suite

SUITE = "suite"
_MEASURED = {"drift": "subject_drift", "direction": "direction_subject_correct"}  # check of rendered scenes: its metric


@dataclass(frozen=True)
class Gate:
    """`written` says whether the file has a [suite] of its own; `sha256` is that of its bytes."""

    path: Path
    sha256: str
    thresholds: Thresholds
    suite: Suite
    written: bool

    @classmethod
    def load(cls, path: Path | str) -> Gate:
        """Read thresholds and suite. Raises UserError naming every mistake in either, and what cannot work together."""
        path, problems = Path(path), Problems()
        values, digest = _read(path)
        table = values.pop(SUITE, None)
        limits = problems.collect(lambda: Thresholds.parse(values, where=path))
        suite = Suite()
        if table is not None and not isinstance(table, Mapping):
            problems.add(path, f"{SUITE}: expected a table, found {table!r}", f"write [{SUITE}]")
        elif table is not None:
            suite = parse_suite(table, path, problems)
        problems.raise_if_any()
        assert limits is not None
        _check_together(limits, suite, path, problems)
        problems.raise_if_any()
        return cls(path, digest, limits, suite, table is not None)

    def asked(self) -> set[str]:
        """Every metric that the decision rests on."""
        return _asked(self.thresholds, self.suite)

    def for_first_version(self) -> tuple[Thresholds, tuple[str, ...]]:
        """The absolute thresholds alone, and the names of the comparisons that are left out."""
        limits, left = self.thresholds, []
        if "drift" in limits.built_in:
            left.append("drift")
        metrics: dict[str, MetricLimits] = {}
        for name, wanted in limits.metrics.items():
            left += [f"{name}.{key}" for key in ("min_effect", "max_loss") if getattr(wanted, key) is not None]
            metrics[name] = replace(wanted, min_effect=None, max_loss=None)
        kept = tuple(check for check in limits.built_in if check != "drift")
        return replace(limits, built_in=kept, metrics=metrics), tuple(left)


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        data = path.read_bytes()
        return dict(toml.loads(data.decode("utf-8"))), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:  # toml 0.10 lets an IndexError out of some malformed lines
        raise UserError(f"{path}: not TOML: {error}") from error


def _check_together(limits: Thresholds, suite: Suite, path: Path, problems: Problems) -> None:
    """What would be refused after an hour of filming is refused now."""
    if suite.count < limits.min_scenes:
        fix = "more seeds of the same scene are no more scenes"
        problems.add(path, f"the suite has {suite.count} scenes, gate.min_scenes asks for {limits.min_scenes}", fix)
    if suite.metrics != (ALL,):
        for name in sorted(_asked(limits, suite) - set(suite.metrics)):
            problems.add(path, f"suite.metrics: {name} is missing, which the gate asks for", "add it")
    if not suite.rendered:
        for check in limits.built_in:
            problems.add(path, f"the gate's check of {check} needs rendered scenes", "use [metrics.NAME] tables")
        if limits.motion_metric == RATIO:
            problems.add(path, f"motion.metric: {RATIO} needs rendered scenes", f'use "{MAGNITUDE}"')


def _asked(limits: Thresholds, suite: Suite) -> set[str]:
    motion = limits.motion_metric or (RATIO if suite.rendered else MAGNITUDE)
    return {motion, *limits.metrics, *(_MEASURED[check] for check in limits.built_in)}
