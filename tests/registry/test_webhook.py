"""A real MLflow server tells a real HTTP receiver that an alias moved; its signature is checked with our code."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest
from local_server import running_server

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.commands.registry import add_arguments, run
from musubi_ext.errors import UserError
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.notifications import DELIVERY, SIGNATURE, TIMESTAMP, RefusedNotificationError, sign
from musubi_ext.registry.store import connect
from musubi_ext.registry.watch import AliasWatcher

NAME = "circle-rotate"
SECRET = "the secret of the webhook"
SOON = 60.0


class Receiver:
    """Hands every POST to a watcher; `answers` are (body, headers, what became of it)."""

    def __init__(self) -> None:
        self.watcher: AliasWatcher | None = None
        self.answers: Queue[tuple[bytes, dict[str, str], str]] = Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert receiver.watcher is not None
                try:
                    outcome = "woken" if receiver.watcher.notify(body, self.headers) else "not ours"
                except RefusedNotificationError as error:
                    outcome = f"refused: {error}"
                receiver.answers.put((body, dict(self.headers), outcome))
                self.send_response(401 if outcome.startswith("refused") else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/moved"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def server_folder(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For a server that may call this machine, and keeps webhooks' secrets under a key of ours."""
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    folder = tmp_path / "server"
    folder.mkdir()
    return folder


def command(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="musubi-ext registry")
    add_arguments(parser)
    return run(parser.parse_args(words))


def test_a_moved_alias_is_told_signed_and_loaded(
    server_folder: Path,
    migrated_store: Path,
    free_port: int,
    receiver: Receiver,
    pair: AdapterPair,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MUSUBI_EXT_WEBHOOK_SECRET", SECRET)
    address = f"http://127.0.0.1:{free_port}"
    early: Queue[int] = Queue()
    polling = AliasWatcher(NAME, "champion", uri=address, every=0.2)  # before there is a server
    following = Thread(target=lambda: [early.put(ref.version) for ref in polling.changes()], daemon=True)
    following.start()
    with running_server(migrated_store, server_folder, free_port) as server:
        follow_by_webhook(server, receiver, pair, capsys)
        while early.get(timeout=SOON) != 2:  # the champion before it may have come and gone between two questions
            pass
    caplog.clear()
    with pytest.raises(UserError, match="store"):  # killed
        polling.current()
    deadline = time.monotonic() + SOON
    while "asking again" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.1)
    assert following.is_alive()
    assert "asking again" in caplog.text
    polling.close()
    following.join(SOON)
    assert not following.is_alive()


def follow_by_webhook(server: str, receiver: Receiver, pair: AdapterPair, capsys: pytest.CaptureFixture[str]) -> None:
    receiver.watcher = watcher = AliasWatcher(NAME, "champion", uri=server, every=3600, secret=SECRET)
    assert command("webhook", "add", receiver.url, "--mlflow_tracking_uri", server) == 0
    assert SECRET not in capsys.readouterr().out
    with pytest.raises(UserError, match="the server has it already"):
        command("webhook", "add", receiver.url, "--mlflow_tracking_uri", server)
    assert command("webhook", "list", "--json", "--mlflow_tracking_uri", server) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["url"], listed["status"]) == (receiver.url, "ACTIVE")
    assert listed["events"] == ["model_version_alias.created", "model_version_alias.deleted"]

    client = connect(server)
    for _ in range(2):
        register_pair(pair, NAME, uri=server)
    client.set_registered_model_alias(NAME, "champion", "1")
    body, headers, outcome = receiver.answers.get(timeout=SOON)
    assert outcome == "woken"
    assert headers[SIGNATURE] == sign(SECRET, headers[DELIVERY], headers[TIMESTAMP], body)

    changes = watcher.changes()
    assert next(changes).version == 1
    began = time.monotonic()
    client.set_registered_model_alias(NAME, "champion", "2")
    found = next(changes)  # would take an hour without the notification
    assert found.version == 2
    assert time.monotonic() - began < SOON
    assert watcher.load(found).manifest == pair.manifest

    assert command("show", f"{NAME}@champion", "--json", "--mlflow_tracking_uri", server) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["pages"] == {"version": f"{server}/#/models/{NAME}/versions/2"}
    assert all(file["verified"] for file in shown["files"])
    client.set_registered_model_alias(NAME, "candidate", "2")
    outcomes = [receiver.answers.get(timeout=SOON)[2] for _ in range(2)]
    assert sorted(outcomes) == ["not ours", "woken"]

    assert forged(receiver, body, headers | {SIGNATURE: sign("guessed", headers[DELIVERY], headers[TIMESTAMP], body)})
    old = str(int(headers[TIMESTAMP]) - 3600)
    assert forged(receiver, body, headers | {TIMESTAMP: old, SIGNATURE: sign(SECRET, headers[DELIVERY], old, body)})

    assert command("webhook", "remove", receiver.url, "--mlflow_tracking_uri", server) == 0
    assert command("webhook", "list", "--mlflow_tracking_uri", server) == 0
    assert "nobody is told" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such webhook"):
        command("webhook", "remove", receiver.url, "--mlflow_tracking_uri", server)
    for url in ("ftp://x/y", "file:///etc/passwd", "http://127.0.0.1/\nx", "http://" + "a" * 10_000):
        with pytest.raises(UserError, match="webhook"):
            command("webhook", "add", url, "--mlflow_tracking_uri", server)


def forged(receiver: Receiver, body: bytes, headers: dict[str, str]) -> bool:
    """Whether the receiver answers a POST of this with 401."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(receiver.url, body, headers), timeout=SOON):
            return False
    except HTTPError as error:
        error.close()
        return error.code == 401 and receiver.answers.get(timeout=SOON)[2].startswith("refused")
