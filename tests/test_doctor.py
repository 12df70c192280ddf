"""The doctor looks at everything, says what would keep a training from starting, and how to mend each."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from musubi_ext.commands import doctor
from musubi_ext.commands.parser import Parser


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No musubi-tuner anywhere: not importable, not named, an empty cache."""
    monkeypatch.setitem(sys.modules, "musubi_tuner", None)
    monkeypatch.delenv("MUSUBI_TUNER_HOME", raising=False)
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "cache"))


def parsed(*words: object) -> argparse.Namespace:
    parser = Parser(prog="musubi-ext doctor")
    doctor.add_arguments(parser)
    args: argparse.Namespace = parser.parse_args([str(word) for word in words])
    return args


def report(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status, and the checks by name."""
    status = doctor.run(parsed("--json", *words))
    answer = json.loads(capsys.readouterr().out)
    assert answer["ready"] is (status == 0)
    checks = {check["name"]: check for check in answer["checks"]}
    assert len(checks) == len(answer["checks"])
    assert all(check["fix"] for check in checks.values() if check["status"] == "failed")
    return status, checks


@pytest.mark.usefixtures("nowhere")
def test_without_musubi_tuner_nothing_can_start(capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = report(capsys)
    assert status == 1
    assert checks["musubi-tuner"]["status"] == "failed"
    assert "musubi-ext host install" in checks["musubi-tuner"]["fix"]
    assert checks["torch"]["found"].startswith(torch.__version__)
    assert {"Python", "einops", "torchvision", "bitsandbytes", "disk"} <= checks.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.usefixtures("nowhere")
def test_what_is_unavailable_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    _, checks = report(capsys)
    for name in ("CUDA", "bitsandbytes"):
        assert checks[name]["status"] == "info"
        assert checks[name]["found"] == "unavailable: no CUDA device"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.usefixtures("nowhere")
def test_devices_are_named_with_their_memory(capsys: pytest.CaptureFixture[str]) -> None:
    _, checks = report(capsys)
    assert torch.cuda.get_device_name(0) in checks["cuda:0"]["found"]
    assert "GiB" in checks["cuda:0"]["found"]


@pytest.mark.usefixtures("nowhere")
def test_a_missing_module_comes_with_its_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "einops", None)
    _, checks = report(capsys)
    assert checks["einops"]["status"] == "failed"
    assert checks["einops"]["fix"] == "pip install einops"


@pytest.mark.usefixtures("nowhere")
def test_models_are_opened(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_file({"w": np.zeros((256, 256), np.float32)}, tmp_path / "good.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1000])  # a download that broke off
    torch.save({"w": torch.zeros(4)}, tmp_path / "t5.pth")
    _, checks = report(
        capsys,
        *("--dit", tmp_path / "good.safetensors", "--dit_high_noise", tmp_path / "cut.safetensors"),
        *("--t5", tmp_path / "t5.pth", "--vae", tmp_path / "gone.pth"),
    )
    assert checks["--dit"]["status"] == "ok"
    assert checks["--dit"]["found"].endswith("0.25 MiB, 1 tensors")
    assert checks["--dit_high_noise"]["status"] == "failed"
    assert "its header cannot be read" in checks["--dit_high_noise"]["found"]
    assert checks["--t5"]["status"] == "ok"
    assert checks["--vae"]["status"] == "failed"
    assert "no such file" in checks["--vae"]["found"]


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(("content", "status"), [(b"", "failed"), (b"<html>", "failed"), (b"\x80\x02}q", "ok")])
def test_a_page_in_the_place_of_weights_is_seen(
    content: bytes, status: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "vae.pth").write_bytes(content)
    assert report(capsys, "--vae", tmp_path / "vae.pth")[1]["--vae"]["status"] == status


@pytest.mark.usefixtures("nowhere")
def test_a_pipeline_folder_will_do(capsys: pytest.CaptureFixture[str], tiny_pipeline: Path, tmp_path: Path) -> None:
    _, checks = report(capsys, "--vae", tiny_pipeline, "--t5", tmp_path)
    assert checks["--vae"]["status"] == "ok"
    assert checks["--t5"]["status"] == "failed"


@pytest.mark.usefixtures("nowhere")
def test_the_table_and_the_remedies_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(parsed()) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("musubi-tuner" in line and "failed" in line for line in lines)
    assert any(line.startswith("musubi-tuner: ") and "host install" in line for line in lines)
    assert lines[-1].startswith("not ready: ")


def test_where_a_training_could_start(capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("MUSUBI_TUNER_HOME"):
        pytest.skip("MUSUBI_TUNER_HOME is not set: no musubi-tuner checkout to look at")
    status, checks = report(capsys)
    assert status == 0
    assert checks["seams"]["status"] == "ok"
    assert "as released" in checks["musubi-tuner"]["found"]
    assert doctor.run(parsed()) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ready to train"
