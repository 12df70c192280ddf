"""What was promoted, refused, approved and rolled back, by whom and why: tags of the versions concerned.

Tags, because they lie in the store with the aliases and are read without fetching an artifact; of versions, because a
model's page would otherwise fill with them.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient

from musubi_ext.registry.users import current_user
from musubi_ext.registry.versions import versions

EVENT = "event."  # + time and a random word: tag of a version
KINDS = ("promotion", "refusal", "wait", "approval", "rollback")
LONGEST = 2000  # characters of a reason; the evidence has it whole


def _now() -> str:
    """UTC to the microsecond: events of one process are in the order in which they happened."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Event:
    """`version` is the one that the event is kept on; champion and previous are those after it.

    `kind` is one of KINDS, `reason` a sentence ("" where there is nothing to say), `evidence` the SHA-256 of the
    evidence or verdict behind it.
    """

    kind: str
    version: int
    champion: int | None
    previous: int | None
    reason: str = ""
    evidence: str = ""
    by: str = field(default_factory=current_user)
    time: str = field(default_factory=_now)
    id: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def key(self) -> str:
        """The tag it is kept in: the same for the same event, so that keeping it twice changes nothing."""
        return f"{EVENT}{self.time.replace('+00:00', 'Z').replace(':', '.')}-{self.id}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def sentence(self) -> str:
        """One line for a terminal."""
        what = f"{self.time[:19]}Z  {self.kind:<9}  version {self.version} by {self.by}"
        now = f"champion = {self.champion}, previous = {self.previous}"
        return f"{what}: {now}" + (f"; {self.reason}" if self.reason else "")


def record(client: MlflowClient, name: str, event: Event) -> None:
    """Keep an event."""
    content = event.as_dict() | {"reason": event.reason[:LONGEST]}
    client.set_model_version_tag(name, str(event.version), event.key, json.dumps(content, ensure_ascii=False))


def history(client: MlflowClient, name: str) -> list[Event]:
    """Every event of the model's versions, oldest first. What others wrote under such a key is passed over."""
    found = []
    for version in versions(client, name):
        for key, value in version.tags.items():
            if key.startswith(EVENT) and (event := _read(value)) is not None:
                found.append(event)
    return sorted(found, key=lambda event: (event.time, event.id))


def _read(text: str) -> Event | None:
    try:
        event = Event(**json.loads(text))
    except (ValueError, TypeError):
        return None
    return event if event.kind in KINDS and isinstance(event.time, str) else None
