"""Stage `serve`: the service starts with the champion that was just promoted, and makes one video when it is asked."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import musubi_ext
from musubi_ext.demo.options import MODEL, POCKET, Layout, Options
from musubi_ext.demo.stages import Demo
from musubi_ext.errors import UserError
from musubi_ext.storage import atomic_path, write_json, write_text

_ROOT = Path(musubi_ext.__file__).parents[1]  # of the checkout: `serving/` lies beside `musubi_ext/`
_READY, _ANSWER, _END = 120.0, 300.0, 60.0  # seconds that starting, one video and ending may take


def serve(demo: Demo) -> None:
    """Write `service.toml`, to start the service with; `service.json` and the video say what it answered."""
    layout = demo.layout
    write_text(layout.service_config, configuration(demo.options, layout))
    champion, reason = _champion(layout), _missing()
    if champion is None:
        reason = f"the gate let no pair pass, so {MODEL} has no champion"
    if reason is not None:
        write_json(layout.served, {"unavailable": reason})
        return
    assert champion is not None
    write_json(layout.served, _answer(demo, champion))


def configuration(options: Options, layout: Layout) -> str:
    """The service's TOML: the demo's base, its champion, its store."""
    values = {
        "base": options.base if options.base == POCKET else str(Path(options.base).absolute()),
        "pair": f"models:/{MODEL}@champion",
        "tracking_uri": layout.tracking_uri,
        "folder": str(layout.service.absolute()),
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def _champion(layout: Layout) -> int | None:
    from musubi_ext.registry.store import connect
    from musubi_ext.registry.versions import aliases

    return aliases(connect(layout.tracking_uri), MODEL).get("champion")


def _missing() -> str | None:
    """What the service needs and is not here, in words."""
    if not (_ROOT / "serving" / "service.py").is_file():
        return "serving/ is not installed with the package (run the demo from a checkout)"
    absent = [name for name in ("bentoml", "dbos", "fastapi") if find_spec(name) is None]
    return f"{', '.join(absent)} not installed (pip install -e '.[serve]')" if absent else None


def _answer(demo: Demo, champion: int) -> dict[str, Any]:
    """Ask for the first held-out scene. Raises UserError when the video is not the champion's, or there is none."""
    import httpx2

    layout, started = demo.layout, time.perf_counter()
    truth = min(layout.scenes.glob("*.npz"))
    with (
        _service(layout, started) as address,
        httpx2.Client(base_url=address, timeout=_ANSWER, trust_env=False) as http,
    ):
        ready = time.perf_counter() - started
        asked = time.perf_counter()
        job = _ended(http, _submitted(http, truth, demo.options))
        taken = time.perf_counter() - asked
        if job["status"] != "completed" or (job["version"] or {}).get("version") != champion:
            said = (job.get("error") or {}).get("message", f"made by {job['model']}")
            raise UserError(f"the service: expected a video of {MODEL}/{champion}, found {job['status']}: {said}")
        video = http.get(f"/v1/videos/{job['id']}/content").raise_for_status().content
    with atomic_path(layout.served_video) as temporary:
        temporary.write_bytes(video)
    return {
        "model": job["model"],
        "version": champion,
        "video": layout.served_video.name,
        "scores": job["scores"],
        "seconds": {"ready": round(ready, 2), "job": round(taken, 3)},
    }


def _submitted(http: Any, truth: Path, options: Options) -> str:
    from musubi_ext.demo.videos import FPS
    from musubi_ext.evaluation.truth import Truth

    frames = Truth.load(truth).frames
    count, height, width = frames.shape[:3]
    fields = {
        "prompt": truth.with_suffix(".txt").read_text(encoding="utf-8").strip(),
        "size": f"{width}x{height}",
        "num_frames": str(count),
        "fps": f"{FPS:g}",
        "seed": str(options.seed),
        "num_inference_steps": str(options.sampler_steps),
    }
    answer = http.post("/v1/videos", data=fields, files={"first_frame": ("first.png", _png(frames[0]), "image/png")})
    if answer.status_code >= 300:
        raise UserError(f"the service refuses the demo's request: {answer.text[:500]}")
    return str(answer.json()["id"])


def _png(frame: Any) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def _ended(http: Any, job_id: str) -> Mapping[str, Any]:
    until = time.monotonic() + _ANSWER
    while True:
        job: dict[str, Any] = http.get(f"/v1/videos/{job_id}").raise_for_status().json()
        if job["status"] in ("completed", "failed"):
            return job
        if time.monotonic() > until:
            raise UserError(f"the service: no video after {_ANSWER:g} s ({job['status']})")
        time.sleep(0.05)


@contextmanager
def _service(layout: Layout, started: float) -> Iterator[str]:
    """The address of a service of our own; its log is kept, and it has ended when this is left."""
    layout.service.mkdir(parents=True, exist_ok=True)
    port, log_path = _free_port(), layout.service / "log.txt"
    environment = os.environ | {
        "MUSUBI_EXT_SERVICE_CONFIG": str(layout.service_config.absolute()),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
    }
    words = [sys.executable, "-m", "bentoml", "serve", "serving.service:VideoService", "--port", str(port)]
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            words, cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, address, log_path, started)
        yield address
    finally:
        _end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path, started: float) -> None:
    import httpx2

    while True:
        try:
            if httpx2.get(f"{address}/readyz", timeout=5.0, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        if process.poll() is not None or time.perf_counter() - started > _READY:
            state = "ended" if process.poll() is not None else f"is not ready after {_READY:g} s"
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise UserError(f"the service {state}: {lines[-1] if lines else 'without a word'} (see {log})")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """In order; its group is killed where that takes too long."""
    process.terminate()
    try:
        process.wait(_END)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
