"""What makes a job's videos beside the base, by name and by the bytes it had when the job was accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair


class RegistryDownError(ConnectionError):
    """The registry does not answer: nobody's mistake, and worth another attempt."""


@dataclass(frozen=True)
class VersionRef:
    """What makes a video beside the base: a registered version, a pair's folder (version 0), or nothing (no name).

    `checksums`: file name → SHA-256, as registered or as found in the folder when the job was accepted.
    """

    name: str = ""
    version: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.name:
            return "base"
        return f"models:/{self.name}/{self.version}" if self.version else f"{self.name} (a folder)"

    @property
    def is_base(self) -> bool:
        """Whether the base makes the video alone."""
        return not self.name

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `VersionRef(**…)` gives it back."""
        return asdict(self)


BASE = VersionRef()


def folder_version(folder: str) -> VersionRef:
    """The pair in a folder as a version, by the bytes it has now. Raises UserError for what is no pair."""
    from musubi_ext.storage import sha256

    pair = folder_pair(folder)
    digests = {file.name: sha256(file) for file in pair.files().values()}
    return VersionRef(str(pair.manifest["name"]), 0, digests)


def folder_pair(folder: str) -> AdapterPair:
    """The pair in a folder. Raises UserError for what is none."""
    from musubi_ext.adapters.pair import AdapterPair

    return AdapterPair.load(folder)
