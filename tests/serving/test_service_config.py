"""One TOML, validated whole: every mistake in it is one line, with its key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from musubi_ext.errors import UserError
from serving.config import CHAMPION, ServiceConfig
from serving.queue.job_settings import JobSettings

ROOT = Path(__file__).resolve().parents[2]


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "service.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        ServiceConfig.load(path)
    return [line.removeprefix(f"{path}: ") for line in caught.value.problems]


def test_defaults_are_the_pocket_model_on_this_machine_alone() -> None:
    config = ServiceConfig.load()
    assert (config.base, config.reference, config.device) == ("pocket-i2v", CHAMPION, "cpu")
    assert (config.bind.host, config.keys_required) == ("127.0.0.1", False)
    assert config == ServiceConfig.of(config.model_dump(mode="json"))  # as it travels to the worker


def test_every_mistake_is_said_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        base = "/nowhere/at/all"
        pair = "models:/a b@champion"
        device = "tpu"
        devise = "cpu"
        database = "mysql://x"
        [limits]
        frames = 0
        steps = "many"
        [leverz]
        [levers]
        vae_tile = 20
        [levers.attention]
        x = 1
        [webhooks]
        secret_env = "MUSUBI_EXT_NOT_SET"
        hosts = ["ok.example", "http://not-a-host/"]
        """,
    )
    keys = [line.split(":")[0] for line in found]
    assert sorted(keys) == sorted([
        "base", "pair", "device", "devise", "database", "limits.frames", "limits.steps", "leverz", "levers.vae_tile",
        "levers.attention", "webhooks.secret_env", "webhooks.hosts.1",
    ])  # fmt: skip
    assert "devise: no such key (did you mean device?)" in found
    assert "leverz: no such key (did you mean levers?)" in found
    assert any(line.startswith("limits.frames: ") and line.endswith("found 0") for line in found)


def test_broken_and_absent_files_are_named(tmp_path: Path) -> None:
    assert problems(tmp_path, "base = ")[0].startswith("expected TOML")
    with pytest.raises(UserError, match="cannot be read"):
        ServiceConfig.load(tmp_path / "none.toml")


def test_other_machines_need_keys(tmp_path: Path) -> None:
    assert ServiceConfig.of({"bind": {"host": "0.0.0.0"}}).keys_required
    assert ServiceConfig.of({"bind": {"host": "localhost"}, "keys": {"required": True}}).keys_required
    (found,) = problems(tmp_path, '[bind]\nhost = "0.0.0.0"\n[keys]\nrequired = false')
    assert found.startswith("keys.required: no keys")


def test_webhooks_need_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no secret_env" in problems(tmp_path, '[webhooks]\nhosts = ["a.example"]')[0]
    monkeypatch.setenv("HOOK", "s")
    config = ServiceConfig.of({"webhooks": {"hosts": ["a.example"], "secret_env": "HOOK"}})
    assert config.webhooks.hosts == ("a.example",)


def test_gpu_levers_need_a_gpu(tmp_path: Path) -> None:
    assert 'group_offload = "leaf" needs a GPU' in problems(tmp_path, '[levers]\ngroup_offload = "leaf"')[0]
    assert ServiceConfig.of({"device": "cuda", "levers": {"group_offload": "leaf"}}).levers.offload_stream


def test_experts_come_in_two(tmp_path: Path) -> None:
    (tmp_path / "high.safetensors").touch()
    high = str(tmp_path / "high.safetensors")
    with pytest.raises(UserError, match="experts: only high is given"):
        ServiceConfig.of({"experts": {"high": high}})
    with pytest.raises(UserError, match=r"experts\.low: .*low\.ckpt is no \.safetensors file"):
        ServiceConfig.of({"experts": {"high": high, "low": str(tmp_path / "low.ckpt")}})
    assert ServiceConfig.of({"experts": {"high": high, "low": high}}).experts.files == (Path(high), Path(high))
    assert ServiceConfig.of({}).experts.files is None


def test_the_queue_is_told_what_stands_in_the_file(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, '[jobs]\nreplica = "a/b"')
    assert found.startswith("jobs.replica: ")
    values = {"workers": 2, "retries": 0, "poll": 0.1, "lease": 5.0, "replica": "one"}
    settings = JobSettings.of(ServiceConfig.of({"folder": str(tmp_path), "jobs": values}))
    assert {name: getattr(settings, name) for name in values} == values
    assert settings.executor(1) == "one.1"


def test_import_of_what_the_api_needs_loads_no_torch() -> None:
    code = "import sys, serving.config, serving.adapters_live\n"
    code += "import serving.making.request, serving.making.measures, serving.making.stages\n"
    code += "print(*({'torch', 'mlflow', 'diffusers', 'av', 'cv2'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
