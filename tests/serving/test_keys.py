"""API keys: what is stored, who gets in, what they may do, and the command line that makes them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from musubi_ext.errors import UserError
from serving.keys import SCOPES, Keys, MissingScopeError, UnknownKeyError, main
from serving.queue.store import Database


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    database = Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    database.migrate()
    yield Keys(database)
    database.close()


def test_a_key_is_recognized_and_its_token_is_nowhere(keys: Keys, tmp_path: Path) -> None:
    key, token = keys.create("team-a", ["videos:read"], max_active=3, per_minute=5)
    found = keys.authenticate(token)
    assert (found.id, found.owner, found.scopes) == (key.id, "team-a", ("videos:read",))
    assert (found.max_active, found.per_minute) == (3, 5)
    secret = token.split("_", 2)[2]
    assert not any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())
    found.require("videos:read")
    with pytest.raises(MissingScopeError, match="videos:write"):
        found.require("videos:write")


def test_what_is_no_key_of_ours_is_refused_alike(keys: Keys) -> None:
    key, token = keys.create("team-a")
    _, ended = keys.create("team-a", expires_in=0.01)
    revoked, gone = keys.create("team-a")
    keys.revoke(revoked.id)
    time.sleep(0.05)
    forged = f"mx_{key.id}_{secrets.token_urlsafe(32)}"
    for wrong in ("", "mx_", token[:-1], token + "\n", token.upper(), forged, ended, gone, "ü" * 60, "\ud800"):
        with pytest.raises(UnknownKeyError, match=r"^unknown API key$"):
            keys.authenticate(wrong)
    assert keys.authenticate(token).id == key.id


def test_a_new_key_of_the_same_owner_replaces_an_old_one(keys: Keys) -> None:
    old, _ = keys.create("team-a")
    _, token = keys.create("team-a")
    keys.revoke(old.id)
    assert keys.authenticate(token).owner == old.owner
    with pytest.raises(UserError, match="no key"):
        keys.revoke(old.id)


def test_mistakes_are_said_all_at_once(keys: Keys) -> None:
    with pytest.raises(UserError) as refusal:
        keys.create("local", ["videos:all"], max_active=0, expires_in=-1)
    assert len(refusal.value.problems) == 4
    with pytest.raises(UserError, match="owner"):
        keys.create("../team")
    assert keys.list() == []


def test_the_command_line_makes_lists_and_revokes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "service.toml"
    config.write_text(f'folder = "{tmp_path / "state"}"\n')
    run = ["--config", str(config)]
    assert main([*run, "create", "--owner", "team-a", "--scope", "videos:read", "--days", "1"]) == 0
    token = capsys.readouterr().out.strip()
    database = Database(f"sqlite:///{tmp_path / 'state' / 'jobs.sqlite'}")
    key = Keys(database).authenticate(token)
    database.close()
    assert main([*run, "list"]) == 0
    listed = capsys.readouterr().out
    assert key.id in listed
    assert "good" in listed
    assert token not in listed
    assert main([*run, "revoke", key.id]) == 0
    assert main([*run, "revoke", key.id]) == 2
    assert main([*run, "create", "--owner", "a/b"]) == 2
    assert "owner" in capsys.readouterr().err
    assert set(SCOPES) >= {"videos:read", "videos:write"}
