"""API keys: shown once, stored as a hash, with scopes, quotas and an end.

A token is `mx_ID_SECRET`, SECRET being 256 random bits. What is stored is its SHA-256: a slow hash such as scrypt
protects words that people choose, which an attacker with the database could guess one after the other. Nobody guesses
256 random bits, and a slow hash would only let anyone without a key burn the service's CPU, request by request.

An owner may have several keys (the old and the new one, while clients change over); jobs belong to the owner.

    python -m serving.keys --config service.toml create --owner team-a --scope videos:read --scope videos:write
    python -m serving.keys --config service.toml list
    python -m serving.keys --config service.toml revoke ID
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
import secrets
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from musubi_ext.errors import Problems, UserError
from serving.queue.store import Database, api_keys

SCOPES = ("videos:read", "videos:write", "models:read", "evaluate", "metrics:read")
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"mx_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NOBODY = hashlib.sha256(b"").hexdigest()


class UnknownKeyError(Exception):
    """No such key, or it was revoked or has expired: which of these is not said."""


class MissingScopeError(Exception):
    """The key is good, but not for this."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(f"this key has no scope {scope}")


@dataclass(frozen=True)
class Key:
    """What a request may do. `max_active`, `per_minute`: None = the service's own limits."""

    id: str
    owner: str
    scopes: tuple[str, ...]
    max_active: int | None = None
    per_minute: int | None = None
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None

    def require(self, scope: str) -> None:
        """Raises MissingScopeError unless the key has `scope`."""
        if scope not in self.scopes:
            raise MissingScopeError(scope)


LOCAL = Key("local", "local", SCOPES)  # who asks where no keys are required


class Keys:
    """The keys in `database` (migrated)."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(
        self,
        owner: str,
        scopes: Collection[str] = SCOPES,
        *,
        max_active: int | None = None,
        per_minute: int | None = None,
        expires_in: float | None = None,
    ) -> tuple[Key, str]:
        """A new key and its token, which is not to be had again. Raises UserError."""
        problems = Problems()
        if not OWNER.fullmatch(owner) or owner == LOCAL.owner:
            problems.add("owner", f"expected letters, digits, '.', '_' and '-', not {LOCAL.owner!r}, found {owner!r}")
        if not scopes or (unknown := sorted(set(scopes) - set(SCOPES))):
            found = ", ".join(unknown) if scopes else "none"
            problems.add("scope", f"expected some of {', '.join(SCOPES)}, found {found}")
        for name, value in (("max_active", max_active), ("per_minute", per_minute), ("expires_in", expires_in)):
            if value is not None and not value > 0:
                problems.add(name, f"expected more than 0, found {value}")
        problems.raise_if_any()
        now = time.time()
        token = f"mx_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
        values = {
            "id": token.split("_")[1],
            "owner": owner,
            "scopes": sorted(set(scopes)),
            "max_active": max_active,
            "per_minute": per_minute,
            "created_at": now,
            "expires_at": None if expires_in is None else now + expires_in,
        }
        with self.database.write() as connection:
            connection.execute(sa.insert(api_keys).values({**values, "digest": _digest(token)}))
        return Key(**{**values, "scopes": tuple(values["scopes"])}), token  # type: ignore[arg-type]

    def authenticate(self, token: str) -> Key:
        """The key of `token`. Raises UnknownKeyError."""
        match = _TOKEN.fullmatch(token) if token.isascii() else None
        row = None
        if match is not None:
            with self.database.read() as connection:
                row = connection.execute(sa.select(api_keys).where(api_keys.c.id == match[1])).first()
        same = hmac.compare_digest(_digest(token), _NOBODY if row is None else row.digest)
        if row is None or not same or not _valid(row, time.time()):
            raise UnknownKeyError("unknown API key")
        return _key(row)

    def list(self) -> list[Key]:
        """All keys, also those that are no longer good, oldest first."""
        with self.database.read() as connection:
            return [_key(row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at))]

    def revoke(self, key_id: str) -> None:
        """End a key now; its owner's jobs stay. Raises UserError when there is none."""
        good = sa.and_(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        with self.database.write() as connection:
            if connection.execute(sa.update(api_keys).where(good).values(revoked_at=time.time())).rowcount == 0:
                raise UserError(f"no key {key_id!r} that could be revoked (`list` shows them)")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _valid(row: object, now: float) -> bool:
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now)  # type: ignore[attr-defined]


def _key(row: sa.Row[tuple[object, ...]]) -> Key:
    values = {name: row._mapping[name] for name in Key.__dataclass_fields__}
    return Key(**{**values, "scopes": tuple(values["scopes"])})


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.keys", description="API keys of the service")
    parser.add_argument("--config", help="the service's TOML (default: the service's defaults)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    create = verbs.add_parser("create", help="make a key and print its token, once")
    create.add_argument("--owner", required=True, help="whose jobs it sees")
    create.add_argument("--scope", action="append", help=f"may be repeated; default all: {', '.join(SCOPES)}")
    create.add_argument("--max-active", type=int, help="jobs waiting or running at once")
    create.add_argument("--per-minute", type=int, help="jobs accepted within a minute")
    create.add_argument("--days", type=float, help="how long it is good; default without end")
    verbs.add_parser("list", help="all keys, without their tokens")
    verbs.add_parser("revoke", help="end a key now").add_argument("id")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 2 for a mistake in what was asked."""
    asked = build_parser().parse_args(argv)
    try:
        print(_run(asked))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run(asked: argparse.Namespace) -> str:
    from pathlib import Path

    from serving.config import ServiceConfig
    from serving.queue.job_settings import JobSettings

    settings = JobSettings.of(ServiceConfig.load(asked.config))
    Path(settings.folder).mkdir(parents=True, exist_ok=True)
    database = Database(settings.url)
    try:
        database.migrate()
        keys = Keys(database)
        if asked.verb == "create":
            ends = None if asked.days is None else asked.days * 86_400.0
            quotas = {"max_active": asked.max_active, "per_minute": asked.per_minute}
            return keys.create(asked.owner, asked.scope or SCOPES, expires_in=ends, **quotas)[1]
        if asked.verb == "revoke":
            keys.revoke(asked.id)
            return f"revoked {asked.id}"
        lines = (f"{key.id}  {key.owner}  {' '.join(key.scopes)}  {_standing(key)}" for key in keys.list())
        return "\n".join(lines) or "no keys"
    finally:
        database.close()


def _standing(key: Key) -> str:
    return "good" if _valid(key, time.time()) else "revoked" if key.revoked_at else "expired"


if __name__ == "__main__":
    sys.exit(main())
