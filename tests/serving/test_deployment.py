"""What is deployed: `bentoml build` from a clean copy, its Dockerfile, the compose file and the Kubernetes example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from musubi_ext.errors import UserError
from serving.api import create_app
from serving.config import ServiceConfig

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "serving" / "deploy"
BENTOFILE = yaml.safe_load((ROOT / "bentofile.yaml").read_text())


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bento that `bentoml build` makes of a copy with nothing in it but what is in the repository."""
    pytest.importorskip("bentoml", reason="bentoml is not installed")
    clone, home = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("bentoml")
    for name in ("bentofile.yaml", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    for name in ("musubi_ext", "serving", "docs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    environment.pop("PYTHONPATH", None)
    words = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    built = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert not (clone / "runs").exists()  # building starts nothing
    (found,) = (path for path in (home / "bentos" / "musubi-ext-video").iterdir() if path.is_dir())
    return found


def test_the_bento_has_all_that_serves_and_no_more(bento: Path) -> None:
    source = bento / "src"
    for name in ("serving/service.py", "serving/ui/index.html", "serving/ui/app.js", "musubi_ext/pocket/weights"):
        assert (source / name).exists(), name
    assert not (source / "tests").exists()
    assert sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) < 30_000_000


def test_the_dockerfile(bento: Path) -> None:
    text = (bento / "env" / "docker" / "Dockerfile").read_text()
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines[0].startswith("FROM nvidia/cuda:12")
    users = [line for line in lines if line.startswith("USER ")]
    assert users[-1] == "USER bentoml"
    assert lines.index("USER bentoml") > max(number for number, line in enumerate(lines) if line.startswith("RUN "))
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert "STOPSIGNAL SIGTERM" in lines
    assert not [line for line in lines if line.startswith("ADD ")]  # fetches whatever an address gives
    assert not re.search(r"password|secret|token|/models/", text, re.I)  # models are mounted
    copied = next(number for number, line in enumerate(lines) if "astral-sh/uv" in line)
    assert copied < next(number for number, line in enumerate(lines) if "command -v uv" in line)


def test_the_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["serve"]}
    assert wanted <= set(BENTOFILE["python"]["packages"])


def test_the_example_configuration_is_valid_but_for_the_folder_that_is_mounted() -> None:
    with pytest.raises(UserError) as refused:
        ServiceConfig.load(DEPLOY / "service.toml")
    assert len(refused.value.problems) == 1
    assert "base: /models/Wan2.2-I2V-A14B-Diffusers" in refused.value.problems[0]
    config = configured()
    assert config.keys_required
    assert config.folder == "/data"
    assert config.database.startswith("postgresql://")


def configured() -> ServiceConfig:
    values = tomllib.loads((DEPLOY / "service.toml").read_text())
    return ServiceConfig.of({name: value for name, value in values.items() if name != "base"})


def test_the_compose_file() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    video, postgres = services["video"], services["postgres"]
    assert [port for port in video["ports"] if not port.startswith("127.0.0.1:")] == []
    assert "ports" not in postgres
    assert (video["read_only"], video["cap_drop"]) == (True, ["ALL"])
    (device,) = video["deploy"]["resources"]["reservations"]["devices"]
    assert (device["count"], device["capabilities"]) == (1, ["gpu"])
    assert int(video["stop_grace_period"].removesuffix("s")) >= configured().limits.grace_seconds + 10
    assert postgres["environment"]["POSTGRES_PASSWORD"] in configured().database


def test_the_kubernetes_example() -> None:
    documents = {of["kind"]: of for of in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert documents["Deployment"]["spec"]["replicas"] > 1
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert pod["terminationGracePeriodSeconds"] >= configured().limits.grace_seconds + 10
    routes = set(routes_of(configured()))
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"]["path"] in routes
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/data", "/models", "/tmp", "/etc/musubi-ext"} <= mounted
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"].items() <= labels.items()


def routes_of(config: ServiceConfig) -> list[str]:
    from jobs_double import Adapters, JobsDouble

    jobs: Any = JobsDouble(Path())
    return list(create_app(jobs, config, adapters=Adapters()).openapi()["paths"])


def test_the_user_of_the_image_is_the_user_of_the_pod(bento: Path) -> None:
    text = (bento / "env" / "docker" / "Dockerfile").read_text()
    documents = {of["kind"]: of for of in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    assert f"BENTO_USER_UID={pod['securityContext']['runAsUser']}" in text
