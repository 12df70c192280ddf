"""A service of one's own as a child process: for the demo, the benchmarks and the tests.

with ServiceProcess(folder, {"pair": ""}) as service:
    httpx2.get(f"{service.address}/v1/videos")
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import toml

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 180.0  # seconds that a start may take


class ServiceProcess:
    """`bentoml serve` with the configuration `values` (tables as dicts), in `folder`: its TOML, its log, its jobs.

    `values` may name another `folder` for the jobs; the port is a free one. `environment` is added to our own.
    """

    def __init__(
        self, folder: Path, values: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.values: dict[str, Any] = {"folder": str(folder / "jobs"), **values, "bind": {"port": self.port}}
        self.environment = dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServiceProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def config(self) -> Path:
        """The TOML file that it reads."""
        return self.folder / "service.toml"

    def start(self, seconds: float = LONGEST) -> float:
        """Until a job would be made: the seconds it took. Raises RuntimeError with the log's end when it fails."""
        began = time.perf_counter()
        self.spawn()
        self.wait_until_ready(seconds)
        return time.perf_counter() - began

    def spawn(self) -> None:
        """Start it, and wait for nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(toml.dumps(self.values), encoding="utf-8")
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {
            **os.environ,
            "PYTHONPATH": paths,
            "MUSUBI_EXT_SERVICE_CONFIG": str(self.config),
            "BENTOML_HOME": str(self.folder / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            **self.environment,
        }
        words = [sys.executable, "-m", "bentoml", "serve", "serving.service:VideoService"]
        with open(self.folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def wait_until_ready(self, seconds: float = LONGEST) -> None:
        """Raises RuntimeError when it ends, or is not ready in time."""
        end = time.monotonic() + seconds
        while not self.ready():
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"the service ended:\n{self.log()[-2000:]}")
            if time.monotonic() > end:
                raise RuntimeError(f"the service is not ready after {seconds:g} s:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def ready(self) -> bool:
        """Whether a job accepted now would be made."""
        try:
            with urlopen(f"{self.address}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):  # an answer of 503 is a URLError as well
            return False

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, and wait: its exit status. One that does not end is killed."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def log(self) -> str:
        """What it has said since its first start."""
        return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    """A local TCP port that nothing listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
