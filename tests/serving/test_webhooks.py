"""Webhooks: which addresses may be called, what is sent, how it is signed, and that it is sent again when it failed."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from some_jobs import ended, request, service, until

from musubi_ext.errors import UserError
from serving.queue import webhooks
from serving.queue.webhooks import HEADER, DeliveryError, RefusedAddressError, Webhooks, sign, verify

SECRET = "a secret of sixteen"
PUBLIC = Webhooks(("hooks.example.org",), SECRET)


class Receiver:
    """An HTTP server that keeps what it is sent; `answers` are given one after the other, then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?x=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_webhooks_are_off_unless_hosts_are_named() -> None:
    with pytest.raises(UserError, match="webhooks are off"):
        Webhooks((), "").check("https://hooks.example.org/x")


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/x",
        "ftp://hooks.example.org/x",
        "https://evil.example.org/x",
        "https://hooks.example.org.evil.org/x",
        "https://evil.org/?https://hooks.example.org",
        "https://hooks.example.org@evil.org/",
        "https://user:password@hooks.example.org/",
        "https://hooks.example.org:22/",
        "https://hooks.example.org:port/",
        "https://hooks.example.org/#part",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/a\r\nHost: x",
        "https://[::1/",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "//hooks.example.org/x",
        "https://hooks.example.org/" + "a" * 2_000,
        "",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"^webhook: "):
        PUBLIC.check(url)


def test_an_allowed_address_is_taken() -> None:
    assert PUBLIC.check("https://hooks.example.org/a?b=c") == "https://hooks.example.org/a?b=c"
    assert PUBLIC.check("https://HOOKS.example.org:443/")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1",
     "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "64:ff9b:1::7f00:1", "fec0::1",
     "::ffff:0:7f00:1"],
)  # fmt: skip
def test_a_host_that_resolves_to_an_inner_address_is_not_called(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, 443)) for found in ("93.184.216.34", address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("it was called"))
    with pytest.raises(RefusedAddressError, match="not public"):
        PUBLIC.deliver("https://hooks.example.org/", {}, "d")


def test_the_checked_address_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])  # the name changes its mind after the check
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (found, 443)) for found in next(answers)]
    )
    called = []

    def connect(address: tuple[str, int], _: float) -> socket.socket:
        called.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(DeliveryError, match="ConnectionRefusedError"):
        PUBLIC.deliver("https://hooks.example.org/", {}, "d")
    assert called == [("93.184.216.34", 443)]


def test_what_is_sent_is_signed_and_no_redirect_is_followed(receiver: Receiver) -> None:
    hooks = Webhooks(("127.0.0.1",), SECRET, private=True)
    hooks.deliver(receiver.url, {"id": "x"}, "delivery-1")
    receiver.answers = [302]
    with pytest.raises(DeliveryError, match="answered 302"):
        hooks.deliver(receiver.url, {"id": "x"}, "delivery-1")
    headers, body = receiver.got[0]
    assert json.loads(body) == {"id": "x"}
    assert headers["X-Musubi-Delivery"] == "delivery-1"
    assert verify(SECRET, headers[HEADER], body)
    assert not verify(SECRET, headers[HEADER], body + b" ")
    assert not verify("another secret of 16", headers[HEADER], body)
    assert len(receiver.got) == 2


def test_a_signature_ends_and_is_never_nonsense() -> None:
    header = sign(SECRET, b"body", at=1_000.0)
    assert verify(SECRET, header, b"body", now=1_000.0 + webhooks.TOLERANCE)
    assert not verify(SECRET, header, b"body", now=1_001.0 + webhooks.TOLERANCE)
    for wrong in ("", "t=,v1=", "v1=00", "t=1000", "t=²,v1=0", "t=" + "9" * 400 + ",v1=0", "t=1000,v1=ü"):
        assert not verify(SECRET, wrong, b"body", now=1_000.0)


def test_the_end_of_a_job_is_told_until_it_is_heard(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [500]
    hooks = {"webhook_hosts": ("127.0.0.1",), "webhook_secret": SECRET, "webhook_private": True}
    with service(tmp_path, **hooks) as jobs:
        job = ended(jobs, jobs.submit(request("steps=1 word=private"), "a", webhook=receiver.url))
        until(lambda: len(receiver.got) == 2, 20)
        waiting = jobs.submit(request("seconds=1"), "a")
        cancelled = jobs.cancel(jobs.submit(request("steps=1"), "a", webhook=receiver.url).id, "a")
        until(lambda: len(receiver.got) == 3, 20)
        jobs.cancel(waiting.id, "a")
        with pytest.raises(UserError, match="not one that the service may call"):
            jobs.submit(request("x"), "a", webhook="http://localhost/")
    said = [json.loads(body) for _, body in receiver.got]
    assert said[0]["type"] == said[1]["type"] == "video.completed"
    assert said[0]["data"]["id"] == job.id
    assert (said[2]["type"], said[2]["data"]["status"]) == ("video.cancelled", "failed")
    assert said[2]["data"]["id"] == cancelled.id
    assert not any(b"private" in body for _, body in receiver.got)
    assert all(verify(SECRET, headers[HEADER], body) for headers, body in receiver.got)
    assert {headers["X-Musubi-Delivery"] for headers, _ in receiver.got} == {
        f"webhook_{job.id}", f"webhook_{cancelled.id}"
    }  # fmt: skip
