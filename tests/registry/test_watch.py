"""An alias is followed: by asking, at once when told, past a store that goes away, and never on a stranger's word."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.notifications import (
    DELIVERY,
    SIGNATURE,
    TIMESTAMP,
    RefusedNotificationError,
    sign,
    verified,
)
from musubi_ext.registry.store import connect
from musubi_ext.registry.watch import AliasWatcher, VersionRef

NAME = "circle-rotate"
SECRET = "a secret of thirty-two characters"
SOON = 60.0  # seconds; the machine may be busy


class Followed:
    """A watcher and what its `changes` gave, in a thread of its own."""

    def __init__(self, watcher: AliasWatcher) -> None:
        self.watcher = watcher
        self.found: Queue[VersionRef] = Queue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for ref in self.watcher.changes():
            self.found.put(ref)

    def next(self) -> int:
        return self.found.get(timeout=SOON).version


@pytest.fixture
def registered(pair: AdapterPair, uri: str) -> str:
    """URI of a registry with two versions."""
    for _ in range(2):
        register_pair(pair, NAME, uri=uri)
    return uri


@pytest.fixture
def followed(registered: str) -> Iterator[Followed]:
    """The champion, asked for every tenth of a second."""
    following = Followed(AliasWatcher(NAME, "champion", uri=registered, every=0.1, secret=SECRET))
    yield following
    following.watcher.close()
    following.thread.join(SOON)
    assert not following.thread.is_alive()


def point(uri: str, version: int) -> None:
    connect(uri).set_registered_model_alias(NAME, "champion", str(version))


def notification(alias: str = "champion", name: str = NAME) -> bytes:
    data = {"name": name, "alias": alias, "version": "2"}
    return json.dumps({"entity": "model_version_alias", "action": "created", "timestamp": "", "data": data}).encode()


def headers(body: bytes, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    when = str(int(time.time() if at is None else at))
    return {SIGNATURE: sign(secret, "delivery-1", when, body), TIMESTAMP: when, DELIVERY: "delivery-1"}


def test_each_change_comes_once(followed: Followed, registered: str) -> None:
    for version in (1, 2, 1):
        point(registered, version)
        assert followed.next() == version
    time.sleep(0.5)
    with pytest.raises(Empty):
        followed.found.get_nowait()


def test_what_is_found_loads_and_is_what_it_was(registered: str, pair: AdapterPair) -> None:
    point(registered, 2)
    watcher = AliasWatcher(NAME, "champion", uri=registered)
    ref = watcher.current()
    assert str(ref) == f"models:/{NAME}/2"
    assert ref.checksums["orbit_h.safetensors"] == pair.manifest["experts"]["high"]["sha256"]
    assert watcher.load(ref).manifest == pair.manifest


def test_a_bit_changed_in_the_store_or_a_tag_is_refused(registered: str) -> None:
    point(registered, 1)
    watcher = AliasWatcher(NAME, "champion", uri=registered)
    ref = watcher.current()
    for file in Path("mlartifacts").rglob("artifacts/orbit_l.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(
        UserError, match=r"orbit_l\.safetensors changed .* expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"
    ):
        watcher.load(ref)
    connect(registered).set_model_version_tag(NAME, "1", "sha256.orbit_l.safetensors", "0" * 64)
    with pytest.raises(UserError, match="its checksums were changed"):
        watcher.load(ref)


def test_an_alias_that_is_not_there_yet_is_waited_for(followed: Followed, registered: str) -> None:
    with pytest.raises(UserError, match="no alias 'champion'"):
        followed.watcher.current()
    time.sleep(0.3)
    point(registered, 1)
    assert followed.next() == 1


def test_a_store_that_goes_away_is_waited_for(registered: str, caplog: pytest.LogCaptureFixture) -> None:
    """The file becomes one that is no database, and comes back with another champion."""
    point(registered, 1)
    following = Followed(AliasWatcher(NAME, "champion", uri=registered, every=0.1))
    assert following.next() == 1
    following.watcher._client = None  # as after a restart: the next question connects again
    store = Path("mlflow.db")
    content = store.read_bytes()
    store.write_bytes(b"this is not a database" * 100)
    deadline = time.monotonic() + SOON
    while "asking again" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    store.write_bytes(content)
    point(registered, 2)
    assert following.next() == 2
    following.watcher.close()
    assert caplog.text.count("asking again") == 1


def test_a_notification_is_asked_about_at_once(registered: str) -> None:
    point(registered, 1)
    following = Followed(AliasWatcher(NAME, "champion", uri=registered, every=3600, secret=SECRET))
    assert following.next() == 1
    point(registered, 2)
    with pytest.raises(Empty):
        following.found.get(timeout=0.5)
    body = notification()
    assert following.watcher.notify(body, {key.lower(): value for key, value in headers(body).items()})
    assert following.next() == 2
    following.watcher.close()


@pytest.mark.parametrize("body", [notification("candidate"), notification(name="other")])
def test_other_aliases_and_models_wake_nobody(registered: str, body: bytes) -> None:
    watcher = AliasWatcher(NAME, "champion", uri=registered, secret=SECRET)
    assert watcher.notify(body, headers(body)) is False


def test_forged_replayed_and_unsigned_notifications_are_refused() -> None:
    body = notification()
    good = headers(body)
    assert verified(body, good, SECRET)["action"] == "created"
    stale, early = headers(body, at=time.time() - 301), headers(body, at=time.time() + 400)
    refused = {
        "another secret": (body, headers(body, "guessed")),
        "another body": (body.replace(b"created", b"deleted"), good),
        "replayed": (body, stale),
        "from the future": (body, early),
        "replayed as of now": (body, {**stale, TIMESTAMP: good[TIMESTAMP]}),
        "another delivery": (body, {**good, DELIVERY: "delivery-2"}),
        "no signature": (body, {TIMESTAMP: good[TIMESTAMP], DELIVERY: "delivery-1"}),
        "another version": (body, {**good, SIGNATURE: good[SIGNATURE].replace("v1,", "v2,")}),
        "an empty one": (body, {**good, SIGNATURE: "v1,"}),
        "a time that is none": (body, {**good, TIMESTAMP: "١٢٣"}),
        "too long": (b" " * 100_000, headers(b" " * 100_000)),
        "no JSON": (b"[" * 30_000, headers(b"[" * 30_000)),
        "no object": (b"[]", headers(b"[]")),
    }
    believed = []
    for what, (content, given_headers) in refused.items():
        try:
            verified(content, given_headers, SECRET)
        except RefusedNotificationError:
            continue
        believed.append(what)
    assert believed == []


def test_without_a_secret_nothing_is_believed(registered: str) -> None:
    body = notification()
    with pytest.raises(UserError, match="secret"):
        AliasWatcher(NAME, "champion", uri=registered).notify(body, headers(body, ""))


@given(st.binary(max_size=200), st.text(max_size=80), st.text(max_size=20), st.text(max_size=40))
def test_whatever_is_sent_is_refused_in_words(body: bytes, signature: str, timestamp: str, delivery: str) -> None:
    with pytest.raises(RefusedNotificationError):
        verified(body, {SIGNATURE: f"v1,{signature}", TIMESTAMP: timestamp, DELIVERY: delivery}, SECRET)


@pytest.mark.parametrize("every", [0, -1, float("nan"), 1e9])
def test_an_interval_that_is_none_is_refused(uri: str, every: float) -> None:
    with pytest.raises(UserError, match="every"):
        AliasWatcher(NAME, "champion", uri=uri, every=every)
