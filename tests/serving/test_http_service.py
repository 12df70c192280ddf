"""The real thing: `bentoml serve` with the real queue and the real engine on a tiny base, asked by our client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from test_uploads import png

from musubi_ext.cli import main
from musubi_ext.video import read_comment, read_video

pytest.importorskip("bentoml", reason="bentoml is not installed")
ROOT = Path(__file__).resolve().parents[2]


def until(what: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return found


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Service:
    """A `bentoml serve` of our own, its log kept."""

    def __init__(self, folder: Path, base: Path, port: int) -> None:
        self.folder, self.port, self.address = folder, port, f"http://127.0.0.1:{port}"
        lines = [
            *(f'base = "{base}"', 'pair = ""', f'folder = "{folder / "jobs"}"', "threads = 1"),
            *("[bind]", f"port = {port}", "[limits]", "grace_seconds = 1.0"),
            *("[evaluation]", 'metrics = ["motion_magnitude", "temporal_flicker"]', "threads = 1"),
        ]
        (folder / "service.toml").write_text("\n".join(lines))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "MUSUBI_EXT_SERVICE_CONFIG": str(self.folder / "service.toml"),
            "BENTOML_HOME": str(self.folder / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONPATH": str(ROOT),
        }
        words = [sys.executable, "-m", "bentoml", "serve", "serving.service:VideoService"]
        with open(self.folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log)
        until(lambda: self._alive() and answers(self.address))

    def _alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        return True

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Iterator[Service]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    service = Service(tmp_path_factory.mktemp("service"), tiny_pipeline, port)
    service.start()
    yield service
    if service.process is not None and service.process.poll() is None:
        service.end(signal.SIGTERM)


def submit(service: Service, tmp_path: Path, *more: str) -> list[str]:
    (tmp_path / "a.png").write_bytes(png())
    words = ["client", "submit", "--url", service.address, "--first_frame", str(tmp_path / "a.png"), "--seed", "7"]
    small = ["--size", "32x32", "--num_frames", "5", "--num_inference_steps", "4", "--prompt", "camera circles"]
    return [*words, *small, *more]


def test_a_whole_job(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(submit(service, tmp_path, "-o", str(tmp_path / "o.mp4"))) == 0
    shown = capsys.readouterr().out
    assert "completed" in shown
    assert "motion_magnitude" in shown
    assert read_video(tmp_path / "o.mp4")[0].shape == (5, 32, 32, 3)
    said = read_comment(tmp_path / "o.mp4")
    assert (said["request"]["prompt"], said["version"]) == ("camera circles", "base")


def test_sync_gives_the_same_bytes(service: Service, tmp_path: Path) -> None:
    assert main(submit(service, tmp_path, "-o", str(tmp_path / "o.mp4"))) == 0
    fields = {"prompt": "camera circles", "seed": 7, "size": "32x32", "num_frames": 5, "num_inference_steps": 4}
    files = {"first_frame": png()}
    answer = httpx.post(f"{service.address}/v1/videos/sync", data=fields, files=files, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.content == (tmp_path / "o.mp4").read_bytes()


def test_bentomls_own_routes_stand_beside_ours_behind_the_same_guard(service: Service) -> None:
    with httpx.Client(base_url=service.address) as http:
        assert "Video from one or two pictures" in http.get("/").text
        metrics = http.get("/metrics").text
        assert "bentoml_service_request_total" in metrics
        assert 'musubi_ext_workers{ready="true"} 1' in metrics
        assert http.get("/livez").status_code == http.get("/readyz").status_code == 200
        stats = http.post("/stats", json={}).json()
        assert stats["workers"]
        assert stats["online"]["mlflow"] == {"noted": 0, "dropped": 0, "unsent": 0}
        for path in ("/metrics", "/stats", "/docs.json", "/v1/videos", "/static_content/x"):
            assert http.get(path, headers={"Host": "evil.example"}).status_code == 403
        pickled = {"content-type": "application/vnd.bentoml+pickle"}  # CVE-2025-27520, CVE-2024-2912
        assert http.post("/stats", content=b"\x80\x04.", headers=pickled).status_code in (400, 415)
        assert http.post("/v1/videos", content=b"\x80\x04.", headers=pickled).status_code == 415
        huge = http.post(
            "/stats", content=b"{" + b" " * 60_000_000 + b"}", headers={"content-type": "application/json"}
        )
        assert huge.status_code == 413


def test_a_preview_of_a_running_job_comes_from_the_workers_process(service: Service, tmp_path: Path) -> None:
    assert main(submit(service, tmp_path, "--num_inference_steps", "100", "--best_of", "8", "--rank_by", "drift")) == 0
    with httpx.Client(base_url=service.address) as http:
        made = http.get("/v1/videos?limit=1").json()["data"][0]["id"]
        until(lambda: http.get(f"/v1/videos/{made}").json()["preview_step"], 60)
        answer = http.get(f"/v1/videos/{made}/content?variant=preview")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), answer.text
        assert answer.content[:2] == b"\xff\xd8"
        http.post(f"/v1/videos/{made}/cancel")
        until(lambda: http.get(f"/v1/videos/{made}").json()["status"] == "failed", 60)
        assert http.get(f"/v1/videos/{made}/content?variant=preview").status_code == 404


def test_a_stream_of_events_does_not_hold_up_the_end_and_jobs_go_on_after_it(service: Service, tmp_path: Path) -> None:
    assert (
        main(submit(service, tmp_path, "--num_inference_steps", "100", "--best_of", "8", "--rank_by", "flicker")) == 0
    )
    with httpx.Client(base_url=service.address) as http:
        made = http.get("/v1/videos?limit=1").json()["data"][0]["id"]
        with http.stream("GET", f"/v1/videos/{made}/events", timeout=60) as answer:
            next(answer.iter_lines())
            started = time.monotonic()
            service.end(signal.SIGTERM)
            assert time.monotonic() - started < 30  # the grace period, and the step under way
    assert not listens(service.port)
    service.start()
    assert main(["client", "watch", made, "--url", service.address]) == 0


def test_a_killed_parent_leaves_nothing_behind(service: Service) -> None:
    """FIELD: after SIGKILL BentoML's HTTP worker would stay and hold the port."""
    service.end(signal.SIGKILL)
    until(lambda: not listens(service.port), 30)
    assert "Exception in ASGI application" not in service.log()
