"""A real `mlflow server` for one test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen


@contextmanager
def running_server(migrated_store: Path, folder: Path, port: int) -> Iterator[str]:
    """Its URI, once it answers; backed by a copy of `migrated_store` in `folder`, and killed in the end."""
    store, log = folder / "server.db", folder / "server.log"
    shutil.copy(migrated_store, store)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", (folder / "served").as_uri()]
    # Jobs are a second service of MLflow's own, which these tests do not wait for.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True, cwd=folder
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(process, uri, log)
        yield uri
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], uri: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(f"{uri}/health", timeout=1):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())
