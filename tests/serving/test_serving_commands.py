"""The commands of docs/SERVING.md and of the README's section, as they stand there, against a real `bentoml serve`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from test_uploads import png

from musubi_ext.video import read_video
from serving.queue.process import ServiceProcess

pytest.importorskip("bentoml", reason="bentoml is not installed")
ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("curl ", "musubi-ext client ", "python -m serving.keys ")  # the others need a container, a cluster, a registry
STARTS = "bentoml serve serving.service:VideoService"


def blocks(page: str, language: str) -> list[str]:
    """The page's blocks of code in a language; "" is a shell's."""
    return [block for found, block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) if found == language]


def lines(page: str) -> list[str]:
    """The page's shell commands in their order, those on one line apart."""
    text = "\n".join(blocks(page, "")).replace("\\\n", " ")
    return [one.strip() for line in text.splitlines() for one in line.split(" #")[0].split(" ; ") if one.strip()]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    values = {
        "pair": "",
        "threads": 1,
        "limits": {"grace_seconds": 1.0},
        "evaluation": {"metrics": ["temporal_flicker"], "threads": 1},
    }
    with ServiceProcess(tmp_path_factory.mktemp("service"), values) as running:
        yield running


class Shell:
    """Runs commands of a page one after the other; ID is the job that was accepted last, KEY_ID the last key."""

    def __init__(self, service: ServiceProcess, folder: Path) -> None:
        self.service, self.folder = service, folder
        self.names = {"ID": "video_" + "0" * 24, "KEY_ID": "none"}
        for name in ("a.png", "b.png"):
            (folder / name).write_bytes(png())
        shutil.copy(service.config, folder / "service.toml")
        programs = folder / "programs"  # the words of the page, with the interpreter that runs the tests
        programs.mkdir()
        for name, module in (("python", ""), ("musubi-ext", "-m musubi_ext.cli")):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            (programs / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MUSUBI_EXT_URL": service.address,
            "MUSUBI_EXT_KEY": "",
        }

    def run(self, line: str) -> str:
        """The command's output; fails with its error."""
        for name, value in self.names.items():
            line = re.sub(rf"\b{name}\b", value, line)
        line = line.replace("localhost:3000", f"127.0.0.1:{self.service.port}")
        line = line.replace("curl ", "curl -sS --fail-with-body ")
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if found := re.search(r"video_[0-9a-f]{24}", done.stdout):
            self.names["ID"] = found[0]
        if found := re.match(r"mx_([0-9a-f]{16})_", done.stdout):
            self.names["KEY_ID"] = found[1]
        return done.stdout


@pytest.mark.parametrize("page", ["docs/SERVING.md", "README.md"])
def test_every_command_of_the_page_works(service: ServiceProcess, tmp_path: Path, page: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    shell = Shell(service, tmp_path)
    commands = [line for line in lines(page) if line.startswith(RUN)]
    assert len(commands) >= (18 if page.startswith("docs") else 4)
    for line in commands:
        if "/content" in line:  # a person waits until the job has completed
            shell.run("musubi-ext client watch ID")
        shell.run(line)
    for name in ("out.mp4", *(("small.mp4", "best.mp4") if page.startswith("docs") else ())):
        frames, _ = read_video(tmp_path / name)
        assert frames.shape[3] == 3, name


def test_the_python_of_the_page_works(service: ServiceProcess, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the OpenAI client is not installed")
    (tmp_path / "a.png").write_bytes(png())
    (code,) = blocks("docs/SERVING.md", "python")
    code = code.replace("http://localhost:3000", service.address)
    run = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(run, cwd=tmp_path, check=True, timeout=60)
    assert read_video(tmp_path / "python.mp4")[0].shape == (17, 64, 64, 3)


def test_the_page_is_there_where_the_documentation_says(service: ServiceProcess) -> None:
    for page in ("docs/SERVING.md", "README.md"):
        assert STARTS in lines(page)
    assert httpx.get(service.address).headers["content-type"].startswith("text/html")
