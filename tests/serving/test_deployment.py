"""What is deployed: `bentoml build` from a clean clone, the bento served alone, and the Dockerfile of its image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx2 as httpx
import pytest
import toml
from test_deploy_examples import configured, one, routes_of
from test_security_service import family
from test_uploads import png

from serving.queue.process import ServiceProcess

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "serving" / "deploy"
BENTOFILE = yaml.safe_load((ROOT / "bentofile.yaml").read_text())


def tracked() -> list[str]:
    """What a clean clone has; all but other people's folders, where this is no checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    kept = ("musubi_ext", "serving", "docs", "tests", "bentofile.yaml", "LICENSE", "README.md", "pyproject.toml")
    found = [path for name in kept for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    return [str(path.relative_to(ROOT)) for path in found if path.is_file() and "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BENTOML_HOME with the bento that `bentoml build` makes of a clean clone."""
    pytest.importorskip("bentoml", reason="bentoml is not installed")
    clone, home = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("bentoml")
    for name in tracked():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    before = set(clone.rglob("*"))
    built = bentoml(["-m", "bentoml", "build", "--output", "tag"], home, clone)
    assert built.returncode == 0, built.stdout + built.stderr
    left = {path.relative_to(clone) for path in set(clone.rglob("*")) - before if "__pycache__" not in path.parts}
    assert left == set()  # building starts nothing
    return home


def bentoml(words: list[str], home: Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **more}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def bento(home: Path) -> Path:
    (found,) = (path for path in (home / "bentos" / "musubi-ext-video").iterdir() if path.is_dir())
    return found


@pytest.fixture(scope="module")
def dockerfile(home: Path) -> str:
    """What `bentoml containerize` hands to docker, rendered as it does, in the folder that the documentation names."""
    code = """
import bentoml
from bentoml._internal.container import construct_containerfile
with construct_containerfile(bentoml.get("musubi-ext-video:latest")) as (_, path):
    print(open(path).read())
"""
    made = bentoml(["-c", code], home, home, TMPDIR=str(home))
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_the_bento_has_all_that_serves_and_no_more(bento: Path) -> None:
    source = bento / "src"
    for name in ("serving/service.py", "serving/ui/index.html", "serving/ui/app.js", "LICENSE"):
        assert (source / name).exists(), name
    assert list((source / "musubi_ext/pocket/weights").rglob("*.safetensors"))
    files = [path for path in bento.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30_000_000
    assert {path.name for path in source.iterdir()} == {"serving", "musubi_ext", "LICENSE", "docs", "bentofile.yaml"}
    parts = {part for path in files for part in path.relative_to(bento).parts}
    assert not parts & {"tests", "runs", ".git", ".env", "__pycache__", "mlruns"}
    assert not [
        path for path in files if path.suffix in (".db", ".sqlite", ".pth", ".pt", ".bin", ".pkl", ".pem", ".key")
    ]
    texts = [path for path in files if path.suffix in (".py", ".toml", ".yaml", ".md", ".json", ".j2", ".sh", ".txt")]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"mx_[0-9a-f]{16}_[A-Za-z0-9_-]{43}|BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}", text), path
        assert str(ROOT) not in text, path


def test_the_bento_serves_alone(home: Path, bento: Path, tmp_path: Path) -> None:
    """From another folder, without this checkout on the path: one job from its acceptance to the mp4."""
    service = ServiceProcess(tmp_path, {"pair": "", "threads": 1, "evaluation": {"enabled": False}})
    service.folder.joinpath("service.toml").write_text(toml.dumps(service.values))
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "MUSUBI_EXT_SERVICE_CONFIG": str(service.config),
    }
    words = [sys.executable, "-m", "bentoml", "serve", "musubi-ext-video:latest"]
    with open(tmp_path / "log.txt", "wb") as log:
        service.process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        service.wait_until_ready()
        (worker,) = (pid for pid in family(service.process.pid) if b"serving.queue.worker" in command(pid))
        assert os.readlink(f"/proc/{worker}/cwd") == str(bento / "src")
        assert f"PYTHONPATH={bento / 'src'}\0" in Path(f"/proc/{worker}/environ").read_text() + "\0"
        small = {"prompt": "a car", "num_frames": "5", "num_inference_steps": "1"}
        made = httpx.post(f"{service.address}/v1/videos/sync", data=small, files={"first_frame": png()}, timeout=60)
        assert made.headers["content-type"] == "video/mp4"
    finally:
        assert service.stop() == 0


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_dockerfile(dockerfile: str) -> None:
    lines = [line.strip() for line in dockerfile.splitlines() if line.strip() and not line.startswith("#")]
    assert lines[0].startswith("FROM nvidia/cuda:12")
    assert len([line for line in lines if line.startswith("FROM ")]) == 1
    users = [line for line in lines if line.startswith("USER ")]
    assert users[-1] == "USER bentoml"
    assert lines.index("USER bentoml") > max(number for number, line in enumerate(lines) if line.startswith("RUN "))
    (health,) = (line for line in lines if line.startswith("HEALTHCHECK"))
    probe = lines[lines.index(health) + 1]
    assert "http://127.0.0.1:3000/livez" in probe
    assert set(re.findall(r"https?://[^/']+(/\w+)", probe)) <= set(routes_of(configured()))
    assert "STOPSIGNAL SIGTERM" in lines
    assert not [line for line in lines if line.startswith("ADD ")]  # fetches whatever an address gives
    assert not re.search(r"password|secret|token|/models/", dockerfile, re.I)  # models are mounted
    for setting in ("BENTOML_HOST=0.0.0.0", "BENTOML_DO_NOT_TRACK=True", "HF_HUB_OFFLINE=1"):
        assert f"ARG {setting}" in lines
    copied = next(number for number, line in enumerate(lines) if "astral-sh/uv" in line)
    assert copied < next(number for number, line in enumerate(lines) if "command -v uv" in line)
    sources = [line for line in lines if line.startswith("COPY ")]
    assert [
        line for line in sources if not re.search(r"--chown=bentoml:bentoml \./?(env/python)? |astral-sh/uv:0", line)
    ] == []


def test_the_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["serve"]}
    assert wanted <= set(BENTOFILE["python"]["packages"])


def test_the_user_of_the_image_is_the_user_of_the_pod(dockerfile: str) -> None:
    pod = one("Deployment")["spec"]["template"]["spec"]
    assert f"BENTO_USER_UID={pod['securityContext']['runAsUser']}" in dockerfile
