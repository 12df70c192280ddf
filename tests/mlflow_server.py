"""A real tracking server over HTTP on a SQLite file, which can be killed and started again where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen


class Server:
    """`mlflow server` with its files in `folder`; `start` waits until it answers."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.uri = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        """Start it, or again after `kill`."""
        store, artifacts = f"sqlite:///{self.folder / 'server.db'}", (self.folder / "served").as_uri()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", store, "--artifacts-destination", artifacts]
        # Jobs are a second service of MLflow's own, which a test of tracking does not wait for.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        self._wait()
        return self

    def kill(self) -> None:
        """SIGKILL to it and its workers."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _wait(self) -> None:
        log, deadline = self.folder / "server.log", time.monotonic() + 300
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, log.read_text()
            try:
                with urlopen(f"{self.uri}/health", timeout=1):
                    return
            except (URLError, OSError):
                time.sleep(0.2)
        raise TimeoutError(log.read_text())
