"""Names that come from outside, checked before they become a path, a tag key or part of a URI."""

from __future__ import annotations

import re
from dataclasses import dataclass

from musubi_ext.errors import UserError

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._-]{0,119}\.(pair\.json|safetensors)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)  # MLflow keeps these for itself


@dataclass(frozen=True)
class ModelReference:
    """`models:/name@alias` or `models:/name/3`: exactly one of `alias` and `version` is set."""

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        return f"models:/{self.name}" + (f"@{self.alias}" if self.alias else f"/{self.version}")


def shown(text: str) -> str:
    """`text` quoted for a message: control characters escaped, never longer than a line."""
    return repr(text if len(text) <= 80 else text[:77] + "…")


def check_name(name: str) -> str:
    """A registered model's name, unchanged. Raises UserError when it is not 1–100 of A–Z a–z 0–9 . _ -."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(f"model name {shown(name)}: expected letters, digits, '.', '_' and '-', at most 100, no '..'")
    return name


def check_alias(alias: str) -> str:
    """A version's alias, unchanged. Raises UserError when MLflow reserves it or it has other characters."""
    if not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
        raise UserError(f"alias {shown(alias)}: expected a word such as candidate, champion or previous")
    return alias


def check_run_id(run_id: str) -> str:
    """An MLflow run id, unchanged. Raises UserError when it is not 32 hexadecimal digits."""
    if not _RUN_ID.fullmatch(run_id):
        raise UserError(f"run id {shown(run_id)}: expected 32 hexadecimal digits, as `musubi-ext registry show` prints")
    return run_id


def check_file_name(name: str) -> str:
    """The name of one of a pair's files, unchanged. Raises UserError for what could lead elsewhere or be no such file.

    Narrower than what a pair on a disk may be called: a name becomes part of a tag's key and a path in every store.
    """
    if not _FILE.fullmatch(name):
        raise UserError(
            f"file name {shown(name)}: expected letters, digits, spaces, '.', '_' and '-', at most 120, "
            "then .safetensors or .pair.json"
        )
    return name


def check_digest(digest: str) -> str:
    """A SHA-256, unchanged. Raises UserError when it is not 64 hexadecimal digits."""
    if not _DIGEST.fullmatch(digest):
        raise UserError(f"sha256 {shown(digest)}: expected 64 hexadecimal digits")
    return digest


def parse_reference(text: str) -> ModelReference:
    """Read `models:/name@alias`, `models:/name/3`, or the same without `models:/`. Raises UserError otherwise."""
    rest = text.removeprefix("models:/")
    if "@" in rest:
        name, alias = rest.split("@", 1)
        return ModelReference(check_name(name), alias=check_alias(alias))
    name, _, version = rest.partition("/")
    if _VERSION.fullmatch(version):
        return ModelReference(check_name(name), version=int(version))
    raise UserError(f"{shown(text)}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
