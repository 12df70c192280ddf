"""`musubi-ext client`: the service from a shell. Standard library, httpx and rich; nothing of a model is loaded."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import Problems, UserError, shown

if TYPE_CHECKING:
    import httpx2

URL, KEY = "MUSUBI_EXT_URL", "MUSUBI_EXT_KEY"
DEFAULT_URL = "http://127.0.0.1:3000"
FAILED = 1
_TEXTS = {
    "prompt": "what is seen and how the camera moves",
    "negative_prompt": "what should not be seen; needs a guidance above 1",
    "size": "WxH, both divisible by 16",
    "seconds": "length of the video",
    "pair": "NAME@ALIAS or NAME/VERSION of a registered pair, or none (the one that serves)",
    "rank_by": "the metric that --best_of chooses by",
}
_NUMBERS: dict[str, tuple[Callable[[str], object], str]] = {
    "num_frames": (int, "frames, 4n+1; in place of --seconds"),
    "fps": (float, "frames per second"),
    "seed": (int, "the same seed gives the same video"),
    "num_inference_steps": (int, "denoising steps"),
    "guidance_scale": (float, "guidance of the high-noise expert; 1 is none"),
    "guidance_scale_2": (float, "guidance of the low-noise expert; 1 is none"),
    "flow_shift": (float, "flow shift"),
    "strength_high": (float, "strength of the pair in the high-noise expert, 0 to 2"),
    "strength_low": (float, "strength of the pair in the low-noise expert, 0 to 2"),
    "best_of": (int, "make N videos, keep the best"),
    "priority": (int, "higher starts earlier, -100 to 100"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs of `client` and their flags."""
    verbs = parser.add_subparsers(dest="client_verb", required=True, metavar="VERB")

    def add(name: str, text: str, *, job: bool = True) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text)
        if job:
            verb.add_argument("id", metavar="ID", help="the job's id, as submit printed it")
        verb.add_argument("--url", help=f"the service (${URL}, else {DEFAULT_URL})")
        verb.add_argument("--json", action="store_true", help="print the service's own JSON")
        return verb

    submit = add("submit", "ask for a video; prints the job's id", job=False)
    submit.add_argument("--first_frame", required=True, type=Path, metavar="IMAGE", help="PNG, JPEG or WebP")
    submit.add_argument("--last_frame", type=Path, metavar="IMAGE", help="the video ends there")
    for name, text in _TEXTS.items():
        submit.add_argument(f"--{name}", required=name == "prompt", metavar="TEXT", help=text)
    for name, (kind, text) in _NUMBERS.items():
        submit.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    submit.add_argument("--idempotency_key", metavar="TEXT", help="the same key again gives the same job")
    submit.add_argument("--watch", action="store_true", help="wait for the video, with a progress bar")
    submit.add_argument("-o", "--output", type=Path, metavar="FILE.mp4", help="wait, then write the video there")
    add("status", "one job now")
    add("watch", "follow a job with a progress bar until it has ended")
    get = add("get", "download a finished job's video, or a picture of it")
    get.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="where to write it")
    get.add_argument("--variant", default="video", choices=("video", "thumbnail", "filmstrip"), help="(%(default)s)")
    cancel = add("cancel", "stop a job at its next step")
    cancel.add_argument("--delete", action="store_true", help="also delete it and its files")


def run(args: argparse.Namespace) -> int:
    """Do one verb; 1 when the job did not complete. Raises UserError with the service's own words."""
    problems = Problems()
    url = args.url or os.environ.get(URL) or DEFAULT_URL
    _check_url(url, problems)
    for name in ("first_frame", "last_frame"):
        path = getattr(args, name, None)
        if path is not None and not path.is_file():
            problems.add(f"--{name} {shown(path)}", "no such file", "give a PNG, JPEG or WebP picture")
    output = getattr(args, "output", None)
    if output is not None and not output.parent.is_dir():
        problems.add(f"--output {shown(output)}", "its folder does not exist", "make it first")
    problems.raise_if_any()
    verbs: dict[str, Callable[[argparse.Namespace, httpx2.Client], int]] = {
        "submit": _submit,
        "status": _status,
        "watch": lambda args, http: _ended(args, _watch(http, args.id, quiet=args.json)),
        "get": _get,
        "cancel": _cancel,
    }
    with _connected(url) as http:
        return verbs[args.client_verb](args, http)


def _submit(args: argparse.Namespace, http: httpx2.Client) -> int:
    names = (*_TEXTS, *_NUMBERS)
    fields = {name: str(getattr(args, name)) for name in names if getattr(args, name) is not None}
    headers = {} if args.idempotency_key is None else {"Idempotency-Key": args.idempotency_key}
    with ExitStack() as open_files:
        paths = {name: getattr(args, name) for name in ("first_frame", "last_frame")}
        files = {name: open_files.enter_context(open(path, "rb")) for name, path in paths.items() if path is not None}
        job = _answer(http.post("/v1/videos", data=fields, files=files, headers=headers)).json()
    if not args.watch and args.output is None:
        return _show(args, job)
    job = _watch(http, job["id"], quiet=args.json)
    if job["status"] == "completed" and args.output is not None:
        _download(http, job["id"], "video", args.output)
    return _ended(args, job)


def _status(args: argparse.Namespace, http: httpx2.Client) -> int:
    return _show(args, _job(http, args.id))


def _get(args: argparse.Namespace, http: httpx2.Client) -> int:
    _download(http, args.id, args.variant, args.output)
    print(shown(args.output))
    return 0


def _cancel(args: argparse.Namespace, http: httpx2.Client) -> int:
    if args.delete:
        answer = _answer(http.delete(f"/v1/videos/{_checked(args.id)}")).json()
        print(json.dumps(answer) if args.json else f"{args.id} deleted")
        return 0
    return _show(args, _answer(http.post(f"/v1/videos/{_checked(args.id)}/cancel")).json())


def _watch(http: httpx2.Client, job_id: str, *, quiet: bool) -> dict[str, Any]:
    """The job once it has ended; its stages and steps on stderr meanwhile."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("waiting", total=100)
        job: dict[str, Any] = {}
        for job in _states(http, _checked(job_id)):
            bar.update(task, completed=job["progress"], description=_in_words(job))
    return job


def _states(http: httpx2.Client, job_id: str) -> Iterator[dict[str, Any]]:
    """The job whenever it has moved, until it has ended; asks again when the stream breaks."""
    import httpx2

    job = _job(http, job_id)
    yield job
    while job["status"] in ("queued", "in_progress"):
        try:
            with http.stream("GET", f"/v1/videos/{job_id}/events", timeout=30.0) as answer:
                if answer.status_code != 200:
                    answer.read()
                    _answer(answer)
                for line in answer.iter_lines():
                    if line.startswith("data: ") and "status" in (said := json.loads(line.removeprefix("data: "))):
                        job = said
                        yield job
        except httpx2.TransportError:
            pass  # the service restarts, say: its jobs survive that
        if job["status"] in ("queued", "in_progress"):
            time.sleep(0.5)
            job = _job(http, job_id)


def _in_words(job: dict[str, Any]) -> str:
    if job["status"] == "queued":
        return f"waiting, number {job['position']}" if job.get("position") else "waiting"
    return f"{job.get('stage') or job['status']} {job['step']}/{job['steps']}" if job["steps"] else job["status"]


def _ended(args: argparse.Namespace, job: dict[str, Any]) -> int:
    _show(args, job)
    return 0 if job["status"] == "completed" else FAILED


def _show(args: argparse.Namespace, job: dict[str, Any]) -> int:
    """One line that says the id, how far it is, and by which version; then its scores."""
    if args.json:
        print(json.dumps(job, indent=2))
        return 0
    reason = f": {job['error']['message']}" if job.get("error") else ""
    print(f"{job['id']} {job['status']}{reason} ({job['progress']}%, {job['model']})")
    for name, score in job["scores"].items():
        value = "unavailable" if score["value"] is None else f"{score['value']:.4g} {score['unit']}".strip()
        print(f"  {name:28} {value}")
    return 0


def _job(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = _answer(http.get(f"/v1/videos/{_checked(job_id)}")).json()
    return job


def _download(http: httpx2.Client, job_id: str, variant: str, path: Path) -> None:
    from musubi_ext.storage import atomic_path

    with http.stream("GET", f"/v1/videos/{_checked(job_id)}/content", params={"variant": variant}) as answer:
        if answer.status_code != 200:
            answer.read()
            _answer(answer)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            for block in answer.iter_bytes():
                file.write(block)


def _answer(answer: httpx2.Response) -> httpx2.Response:
    """The answer, if it is a success. Raises UserError with the service's sentence."""
    if answer.is_success:
        return answer
    try:
        said = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = f"status {answer.status_code}"
    hint = f" (set ${KEY})" if answer.status_code == 401 else ""
    raise UserError(f"the service answers: {said}{hint}")


@contextmanager
def _connected(url: str) -> Iterator[httpx2.Client]:
    """A client that sends the key of $MUSUBI_EXT_KEY. Raises UserError when nothing answers."""
    import httpx2

    key = os.environ.get(KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as http:
            yield http
    except httpx2.TransportError as error:
        raise UserError(f"--url {url}: no answer ({type(error).__name__}; is the service running?)") from error


def _check_url(url: str, problems: Problems) -> None:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        problems.add(f"--url {url}", "expected http://HOST:PORT or https://HOST", f"for example {DEFAULT_URL}")


def _checked(job_id: str) -> str:
    """The id, which becomes a part of an address. Raises UserError for what is none."""
    import re

    if not re.fullmatch(r"video_[0-9a-f]{24}", job_id):
        raise UserError(f"ID {job_id!r}: expected video_ and 24 hexadecimal digits, as submit printed it")
    return job_id
