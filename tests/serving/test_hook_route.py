"""MLflow's webhook at the service: a real server's notification wakes the follower; anything else is refused."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble, KeysDouble, served

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.notifications import DELIVERY, SIGNATURE, TIMESTAMP, sign
from musubi_ext.registry.store import connect
from musubi_ext.registry.webhooks import add_webhook
from serving.adapters_live import LiveAdapters
from serving.api import create_app
from serving.config import ServiceConfig
from serving.http.hook_route import LONGEST, PATH

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mlflow_server import Server

NAME = "orbit-pair"
SECRET = "the secret of the webhook"
MOVED = (
    b'{"entity": "model_version_alias", "action": "created", '
    b'"data": {"name": "orbit-pair", "alias": "champion", "version": "2"}}'
)


@pytest.fixture
def config(
    tiny_config: Callable[..., ServiceConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ServiceConfig]:
    """For a service that asks its registry once an hour, unless it is told."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    told = {"every": 3600.0, "webhook_secret_env": "HOOK_SECRET"}
    return lambda uri: tiny_config(pair=f"models:/{NAME}@champion", tracking_uri=uri, adapters=told)


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
def client(
    tmp_path: Path, uri: str, config: Callable[[str], ServiceConfig], heard: list[bytes]
) -> Iterator[TestClient]:
    """A service that needs keys, reached from elsewhere; `heard` is what was believed."""
    adapters = LiveAdapters(config(uri))

    def hook(body: bytes, headers: Any) -> None:
        if adapters.notify(body, headers):
            heard.append(body)

    keyed = ServiceConfig.of({"keys": {"required": True}})
    app = create_app(JobsDouble(tmp_path, keys=KeysDouble()), keyed, adapters=Adapters(), hook=hook)
    with TestClient(app, base_url="http://service.example") as client:
        yield client


def signed(body: bytes, secret: str = SECRET, late: float = 0.0) -> dict[str, str]:
    at = str(int(time.time() - late))
    return {SIGNATURE: sign(secret, "d1", at, body), TIMESTAMP: at, DELIVERY: "d1"}


def test_only_what_is_signed_and_fresh_is_believed(client: TestClient, heard: list[bytes]) -> None:
    assert client.get("/v1/videos").status_code == 401  # nothing else is open
    for headers in ({}, signed(MOVED, "guessed"), signed(MOVED, late=3600), signed(MOVED + b" ")):
        answer = client.post(PATH, content=MOVED, headers=headers)
        assert (answer.status_code, heard) == (401, [])
        assert "secret" in answer.json()["error"]["message"]
    assert client.post(PATH, content=MOVED, headers=signed(MOVED)).json() == {"status": "ok"}
    assert heard == [MOVED]
    other = MOVED.replace(b"champion", b"candidate")
    assert client.post(PATH, content=other, headers=signed(other)).status_code == 200
    assert heard == [MOVED]  # true, and no news of ours


def test_what_is_too_long_is_not_read(client: TestClient, heard: list[bytes]) -> None:
    huge = b" " * (LONGEST + 1)
    assert client.post(PATH, content=huge, headers=signed(huge)).status_code == 413
    assert heard == []


def test_without_a_secret_it_is_off_and_says_so(tmp_path: Path) -> None:
    app = create_app(JobsDouble(tmp_path), ServiceConfig.of({}), adapters=Adapters())
    answer = TestClient(app, base_url="http://127.0.0.1:3000").post(PATH, content=MOVED, headers=signed(MOVED))
    assert answer.status_code == 404
    assert "webhook_secret_env" in answer.json()["error"]["message"]


def test_a_promotion_on_a_real_server_is_taken_without_waiting_for_the_next_question(
    migrated_store: Path,
    make_pair: Callable[..., AdapterPair],
    config: Callable[[str], ServiceConfig],
    tmp_path: Path,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
    monkeypatch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    (tmp_path / "server").mkdir()
    shutil.copy(migrated_store, tmp_path / "server" / "server.db")
    running = Server(tmp_path / "server", _free_port()).start()
    try:
        server = running.uri
        client, settings = connect(server), config(server)
        adapters = LiveAdapters(settings)
        app = create_app(JobsDouble(tmp_path), settings, adapters=adapters, hook=adapters.notify)
        with served(app, _free_port()) as address:
            add_webhook(client, address + PATH, SECRET)  # first: MLflow remembers for a minute that there is none
            for seed in (1, 2):
                register_pair(make_pair(seed, "orbit"), NAME, uri=server)
            client.set_registered_model_alias(NAME, "champion", "1")
            adapters.start()
            try:
                assert adapters.current().version == 1
                client.set_registered_model_alias(NAME, "champion", "2")
                end = time.monotonic() + 60
                while adapters.current().version != 2:  # an hour, without the notification
                    assert time.monotonic() < end, (tmp_path / "server" / "server.log").read_text()[-2000:]
                    time.sleep(0.05)
            finally:
                adapters.close()
    finally:
        running.kill()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
