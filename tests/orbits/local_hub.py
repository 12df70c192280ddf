"""A hub on this machine: as much of the Hugging Face hub's HTTP as huggingface_hub needs to list and send files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "someone/orbits"
LARGE = (".mp4", ".zip")  # kept as the hub keeps LFS files: listed with SHA-256, sent by another host


@dataclass
class Fault:
    """What goes wrong with one file, `times` times. `cut`: bytes sent before the connection closes; `stall`: bytes sent
    before nothing comes until `Hub.released`; `wrong`: one byte changed; `status`: an answer instead of the file."""

    times: int = 1
    cut: int | None = None
    stall: int | None = None
    wrong: bool = False
    longer: bool = False
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Sent:
    """One request for a file, as the server saw it."""

    path: str
    start: int  # of the Range asked for, 0 without
    count: int = 0  # bytes of the body that went out
    authorized: bool = False


class Hub:
    """Commits of one data set, branches, faults by path, and what was asked."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.card: dict[str, Any] = {"license": "cc-by-4.0"}
        self.extra_paths: list[str] = []
        self.listing_answer: tuple[int, dict[str, str], bytes] | None = None
        self.faults: dict[str, Fault] = {}
        self.sent: list[Sent] = []
        self.listings = 0
        self.under_way, self.released = threading.Event(), threading.Event()
        self.ignores_ranges = False
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        name = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        return name

    def requested(self) -> list[str]:
        return sorted(each.path for each in self.sent)

    def forget(self) -> None:
        self.sent.clear()
        self.listings = 0

    def listing(self, commit: str) -> bytes:
        siblings = [sibling(path, content) for path, content in self.commits[commit].items()]
        siblings += [sibling(path, b"x") for path in self.extra_paths]
        value = {"_id": "0", "id": REPOSITORY, "sha": commit, "siblings": siblings, "cardData": self.card}
        return json.dumps(value).encode()


def sibling(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
    if path.endswith(LARGE):
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


class Quiet(ThreadingHTTPServer):
    """A client that leaves in the middle is what these tests are about: no traceback of it."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[ThreadingHTTPServer]:
    """The hub's server, on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, hub)

        def log_message(self, *_: object) -> None:
            pass

    server = Quiet(("127.0.0.1", hub.port), Handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    path = unquote(urlsplit(request.path).path)
    if match := re.fullmatch(rf"/api/datasets/{REPOSITORY}/revision/(.+)", path):
        hub.listings += 1
        if hub.listing_answer:
            return reply(request, *hub.listing_answer)
        commit = hub.branches.get(match[1], match[1])
        if commit not in hub.commits:
            return reply(request, 404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        return reply(request, 200, {"Content-Type": "application/json"}, hub.listing(commit))
    if match := re.fullmatch(rf"/(cdn|datasets)/{REPOSITORY}/resolve/([0-9a-f]{{40}})/(.+)", path):
        host, commit, name = match.groups()
        if name in hub.commits[commit]:
            if host == "datasets" and name.endswith(LARGE):
                address = f"http://localhost:{hub.port}{request.path.replace('/datasets/', '/cdn/', 1)}"
                return reply(request, 302, {"Location": address}, b"")
            return send(request, hub, name, hub.commits[commit][name])
    return reply(request, 404, {"X-Error-Code": "EntryNotFound" if "/resolve/" in path else "RepoNotFound"}, b"{}")


def send(request: BaseHTTPRequestHandler, hub: Hub, name: str, content: bytes) -> None:
    fault = hub.faults.get(name, Fault(times=0))
    if fault.times < 1:
        fault = Fault()
    fault.times -= 1
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    start = int(asked[1]) if asked else 0
    sent = Sent(name, start, authorized="Authorization" in request.headers)
    hub.sent.append(sent)
    if fault.status:
        return reply(request, fault.status, fault.headers, b"{}")
    if fault.wrong:
        content = content[:-1] + bytes([content[-1] ^ 1])
    if fault.longer:
        content += b"more"
    ranged = asked is not None and not hub.ignores_ranges
    body = content[start:] if ranged else content
    request.send_response(206 if ranged else 200)
    if ranged:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    end = next((stop for stop in (fault.cut, fault.stall) if stop is not None), len(body))
    request.wfile.write(body[:end])
    request.wfile.flush()
    sent.count = len(body[:end])
    hub.under_way.set()
    if fault.stall is not None:
        hub.released.wait(20)
    if end < len(body):
        request.close_connection = True


def reply(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
