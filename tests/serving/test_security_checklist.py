"""What past incidents teach: each weakness that a service of this kind has had, and a test that it is not ours.

A CVE is named where there is one, else the class of weakness (CWE). docs/SECURITY.md lists them with the tests.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jobs_double import Adapters, JobsDouble
from test_http_videos import submit
from test_uploads import ADDRESS, png

from musubi_ext.errors import UserError
from serving.api import create_app
from serving.config import ServiceConfig
from serving.engine import Engine
from serving.http.submission import FIELDS

ROOT = Path(__file__).resolve().parents[2]

FILES = ("first_frame", "last_frame", "input_reference")

PICKLES = ("application/vnd.bentoml+pickle", "Application/Vnd.BentoML+Pickle", "application/octet-stream",
           "application/x-pickle", "application/python-pickle", "application/vnd.apache.arrow.file")  # fmt: skip


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    return JobsDouble(tmp_path)


@pytest.fixture
def client(jobs: JobsDouble) -> TestClient:
    return TestClient(create_app(jobs, ServiceConfig.of({}), adapters=Adapters()), base_url=ADDRESS)


class Canary:
    """A port that nobody has a reason to connect to, and who did."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.visits = self.socket.getsockname()[1], 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                self.socket.accept()[0].close()
            except OSError:
                return
            self.visits += 1


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.socket.close()


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that this process asks a name server for, or connects to."""
    asked: list[Any] = []

    def seen(*words: Any, **_: Any) -> Any:
        asked.append(words)
        raise OSError("no")

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, seen)
    monkeypatch.setattr(socket.socket, "connect", seen)
    return asked


def test_no_field_is_an_address(client: TestClient, canary: Canary, dialled: list[Any], jobs: JobsDouble) -> None:
    """CVE-2025-54381: a text in the place of a file was fetched. Here no text in any place is."""
    place = f"127.0.0.1:{canary.port}/x"
    addresses = [f"http://{place}", f"https://{place}", f"ftp://{place}", f"//{place}", "file:///etc/passwd",
                 "http://169.254.169.254/latest/meta-data/", f"models:/http://{place}"]  # fmt: skip
    for address in addresses:
        for field in (*FIELDS, *FILES):
            fields = {"prompt": "a car", field: address}
            for path in ("/v1/videos", "/v1/videos/sync") if field not in ("prompt", "negative_prompt") else ():
                files = {"first_frame": ("a.png", png())} if field not in FILES else {"unused": b"x"}
                assert client.post(path, data=fields, files=files).status_code == 400, (field, address)
                assert client.post(path, json={**fields, "first_frame": address}).status_code == 400
        assert client.post("/v1/evaluate", data={"video": address}).status_code == 400
        assert client.get("/v1/videos", params={"after": address}).status_code == 400
        assert client.get(f"/v1/videos/{address}").status_code in (400, 404)
        assert client.get("/v1/models", headers={"Referer": address, "X-Original-URL": address}).status_code == 200
    assert jobs.records == {}
    assert submit(client, prompt=addresses[0]).status_code == 200  # a prompt is a text like any other
    assert dialled == []
    assert canary.visits == 0


def test_playlists_are_no_videos(client: TestClient, canary: Canary) -> None:
    """CVE-2025-54381's class, through the video decoder: containers that name other files."""
    place = f"http://127.0.0.1:{canary.port}/x"
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{place}.ts\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {place}\n",
        f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{place}</BaseURL></MPD>',
    ):
        answer = client.post("/v1/evaluate", data={"metrics": "motion_magnitude"}, files={"video": text.encode()})
        assert answer.status_code == 400, text
        assert str(canary.port) not in answer.text
    assert canary.visits == 0


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.mark), "w"))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_nothing_is_unpickled(client: TestClient, tmp_path: Path) -> None:
    """CVE-2025-27520, CVE-2024-2912: a pickle as a body, or as a part of one, ran what it said."""
    mark = tmp_path / "mark"
    data = pickle.dumps(Bomb(mark))
    document = client.get("/openapi.json").json()
    for path in [path for path, operations in document["paths"].items() if "post" in operations]:
        for kind in PICKLES:
            answer = client.post(
                path.replace("{video_id}", "video_" + "0" * 24), content=data, headers={"Content-Type": kind}
            )
            assert answer.status_code in (401, 404, 415), (path, kind, answer.text)
    for kind in PICKLES:
        files = {"first_frame": ("a.png", data, kind)}
        assert client.post("/v1/videos", data={"prompt": "a"}, files=files).status_code == 400
    assert client.post("/v1/evaluate", files={"video": ("a.mp4", data, PICKLES[0])}).status_code == 400
    assert not mark.exists()
    pickle.loads(data).close()
    assert mark.exists()  # the bomb works


def test_no_native_endpoint_takes_a_file() -> None:
    """CVE-2025-54381 sat in BentoML's own inputs: ours take neither files nor a bare root value."""
    pytest.importorskip("bentoml", reason="bentoml is not installed")
    code = """
import json
from serving.service import VideoService
specs = {name: api.input_spec for name, api in VideoService.apis.items()}
print(json.dumps({name: [sorted(spec.model_fields), sorted(spec.multipart_fields)] for name, spec in specs.items()}))
"""
    environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(ROOT)}
    made = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(made.stdout) == {"stats": [[], []]}


def test_versions_with_known_holes_are_refused() -> None:
    """The floors below which the CVEs above lie, in what is installed, required and put into the image."""
    floors = {"bentoml": (1, 4, 39), "starlette": (0, 49, 1), "mlflow": (3, 11), "python-multipart": (0, 0, 20)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    for name, floor in floors.items():
        (line,) = (line for line in wanted if line.partition(">=")[0] == name)
        assert _numbers(line.partition(">=")[2].partition(",")[0]) >= floor
        assert _numbers(version(name)) >= floor
        assert f'"{line}"' in (ROOT / "bentofile.yaml").read_text()
    assert not [line for line in wanted if line.startswith("gradio")]  # CVE-2026-28416: the page is our own


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_base_with_pickled_weights_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    """CVE-2024-2912's class: weights that run code. Only safetensors are read, whatever lies beside them."""
    base, mark = tmp_path / "base", tmp_path / "mark"
    shutil.copytree(tiny_pipeline, base)
    (base / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    (base / "transformer" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises((UserError, OSError)):
        Engine(ServiceConfig.of({"base": str(base), "pair": ""}))
    assert not mark.exists()
