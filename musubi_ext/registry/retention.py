"""Which versions of a model have to stay: what an alias or evidence refers to, the newest, and the young."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient

from musubi_ext.errors import UserError
from musubi_ext.registry.alias_moves import INTENT
from musubi_ext.registry.evidence import GATE_TAG, RECORD_TAG
from musubi_ext.registry.promotion_log import history
from musubi_ext.registry.versions import aliases, versions

_DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Retention:
    """A version goes when it is beyond the `keep` newest of its model, older than `days`, and nothing refers to it.

    `refused`: versions that the gate refused go too; their evidence then counts for nothing.
    """

    keep: int = 5
    days: float = 30.0
    refused: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.keep < 0:
            problems.append(f"--keep {self.keep}: expected 0 or more versions")
        if not 0 <= self.days < 1e6:
            problems.append(f"--older_than {self.days:g}: expected 0 or more days")
        if problems:
            raise UserError(problems)


@dataclass(frozen=True)
class Judged:
    """A version and why it stays; "" when it may go."""

    version: Any
    reason: str


def judge(client: MlflowClient, name: str, rule: Retention) -> list[Judged]:
    """Every version of the model, newest first."""
    found = versions(client, name)
    referred = _referred(client, name, found, rule)
    now = time.time()
    return [
        Judged(version, referred.get(int(version.version)) or _by_age(rank, version, rule, now))
        for rank, version in enumerate(found)
    ]


def still_free(client: MlflowClient, version: Any, rule: Retention) -> bool:
    """Whether nothing refers to a version that `judge` let go, asked again before it is deleted."""
    model = client.get_registered_model(version.name)
    fresh = client.get_model_version(version.name, str(version.version))
    evidence = RECORD_TAG in fresh.tags and not (rule.refused and _refused(fresh))
    pointed_at = str(version.version) in map(str, model.aliases.values())
    return not (evidence or pointed_at or INTENT in model.tags)


def _by_age(rank: int, version: Any, rule: Retention, now: float) -> str:
    age = now - version.creation_timestamp / 1000
    if rank < rule.keep:
        return f"one of the {rule.keep} newest"
    return f"younger than {rule.days:g} days" if age < rule.days * _DAY else ""


def _referred(client: MlflowClient, name: str, found: list[Any], rule: Retention) -> dict[int, str]:
    """Version number → what refers to it. Aliases say more than evidence, so they come last and win."""
    dropped = {int(version.version) for version in found if rule.refused and _refused(version)}
    reasons: dict[int, str] = {}
    for event in history(client, name):
        if event.evidence and event.version not in dropped:
            for number in (event.champion, event.previous):
                if number is not None:
                    reasons[number] = f"named by evidence of version {event.version}"
    for version in found:
        if RECORD_TAG in version.tags and int(version.version) not in dropped:
            reasons[int(version.version)] = "has evidence"
    if INTENT in client.get_registered_model(name).tags:
        return {int(version.version): "a promotion is under way" for version in found}
    pointing: dict[int, list[str]] = {}
    for alias, number in sorted(aliases(client, name).items()):
        pointing.setdefault(number, []).append(alias)
    return reasons | {number: f"alias {', '.join(names)}" for number, names in pointing.items()}


def _refused(version: Any) -> bool:
    return str(version.tags.get(GATE_TAG, "")).startswith("refused")
