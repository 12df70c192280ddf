"""The examples that are deployed: the configuration, the compose file, the Kubernetes file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from musubi_ext.errors import UserError
from serving.api import create_app
from serving.config import ServiceConfig

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
DEPLOY = Path(__file__).resolve().parents[2] / "serving" / "deploy"


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
    of = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = of["services"]
    videos = {name: one for name, one in services.items() if name.startswith("video-")}
    assert len(videos) == 2
    gpus, ports = set(), set()
    for name, video in videos.items():
        assert video["hostname"] == name
        (port,) = video["ports"]
        assert port.startswith("127.0.0.1:")
        assert (video["read_only"], video["cap_drop"]) == (True, ["ALL"])
        assert video["security_opt"] == ["no-new-privileges:true"]
        (device,) = video["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        gpus.add(tuple(device["device_ids"]))
        ports.add(port)
        assert int(video["stop_grace_period"].removesuffix("s")) >= configured().limits.grace_seconds + 10
        assert {mount.partition(":")[2] for mount in video["volumes"]} == {"/data", "/models:ro"}
    assert len(gpus) == len(ports) == 2
    assert "ports" not in services["postgres"]
    assert {volume.partition(":")[0] for one in services.values() for volume in one["volumes"]} - {"./models"} == set(
        of["volumes"]
    )
    mounted = {one["source"] for video in videos.values() for one in video["configs"]}
    assert mounted == set(of["configs"])


def test_no_secret_stands_in_a_file() -> None:
    """By reference only: a variable of the shell, a secret of the cluster."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    found = [compose["video-0"]["environment"]["PGPASSWORD"], compose["postgres"]["environment"]["POSTGRES_PASSWORD"]]
    assert all(value.startswith("${POSTGRES_PASSWORD:?") for value in found)
    references = 0
    for document in kubernetes():
        if document["kind"] in ("Deployment", "StatefulSet"):
            for entry in document["spec"]["template"]["spec"]["containers"][0]["env"]:
                if "PASSWORD" in entry["name"]:
                    assert entry["valueFrom"]["secretKeyRef"]["key"] == "password"
                    references += 1
        assert document["kind"] != "Secret"
    assert references == 2
    address = urlsplit(configured().database)
    assert (address.username, address.password) == ("musubi", None)
    for path in DEPLOY.iterdir():
        assert not re.search(
            r"(password|secret|token)\w*\s*[:=]\s*[\"']?[a-z0-9-]{6,}[\"']?\s*$", path.read_text(), re.I | re.M
        )


def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def one(kind: str, name: str = "musubi-ext") -> dict[str, Any]:
    (found,) = (of for of in kubernetes() if of["kind"] == kind and of["metadata"]["name"] == name)
    return found


def test_the_kubernetes_example() -> None:
    for document in kubernetes():
        assert {"apiVersion", "kind", "metadata", "spec"} == set(document)
    deployment = one("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["spec"]["replicas"] > 1
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0  # else an update waits for a GPU for ever
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert pod["terminationGracePeriodSeconds"] >= configured().limits.grace_seconds + 10
    routes = set(routes_of(configured()))
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    assert set(probes.values()) <= routes
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/data", "/models", "/tmp", "/etc/musubi-ext"} <= mounted
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    claims = {
        volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume
    }
    for claim in claims:
        assert one("PersistentVolumeClaim", claim)
    assert one("PersistentVolumeClaim", "musubi-ext-data")["spec"]["accessModes"] == ["ReadWriteMany"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert one("Service")["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "musubi-ext"), ("StatefulSet", "musubi-ext-postgres")])
def test_no_pod_may_do_more_than_it_must(kind: str, name: str) -> None:
    pod = one(kind, name)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip


def test_a_pod_reaches_its_database_and_the_registry_alone() -> None:
    """Should a request ever make the service call an address (CVE-2025-54381), the network refuses it."""
    policy = one("NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    database = one("StatefulSet", "musubi-ext-postgres")["spec"]["template"]["metadata"]["labels"]
    named = [rule["to"][0]["podSelector"]["matchLabels"] for rule in policy["egress"] if "to" in rule]
    assert database in named
    assert {port["port"] for rule in policy["egress"] if "to" not in rule for port in rule["ports"]} == {53}
    assert one("Service", "postgres")["spec"]["selector"] == database
    assert urlsplit(configured().database).hostname == "postgres"


def routes_of(config: ServiceConfig) -> list[str]:
    from jobs_double import Adapters, JobsDouble

    jobs: Any = JobsDouble(Path())
    return list(create_app(jobs, config, adapters=Adapters()).openapi()["paths"])
