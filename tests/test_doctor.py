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

from musubi_ext.commands import doctor, doctor_preset
from musubi_ext.commands.parser import Parser
from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi import requirements
from musubi_ext.hosts.musubi.requirements import missing
from musubi_ext.pocket.config import pipeline_path


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
def test_a_pipeline_folder_will_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, checks = report(capsys, "--vae", pipeline_path(), "--t5", tmp_path)
    assert checks["--vae"]["status"] == "ok"
    assert checks["--t5"]["status"] == "failed"


@pytest.mark.usefixtures("nowhere")
def test_the_table_and_the_remedies_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(parsed()) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("musubi-tuner" in line and "failed" in line for line in lines)
    assert any(line.startswith("musubi-tuner: ") and "host install" in line for line in lines)
    assert lines[-1].startswith("not ready: ")


def test_an_import_that_fails_is_told_from_methods_that_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if missing():
        pytest.skip("modules that musubi-tuner needs are not installed")
    package = tmp_path / "src" / "musubi_tuner"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.3.4"\n')
    monkeypatch.setenv("MUSUBI_TUNER_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "musubi_tuner").is_dir()])
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "musubi_tuner"}
    found = []
    for text in ("import no_such_module", "class WanNetworkTrainer: pass"):
        (package / "wan_train_network.py").write_text(text)
        found += [report(capsys)[1]["seams"]]
    for name in [name for name in sys.modules if name.split(".")[0] == "musubi_tuner"]:
        del sys.modules[name]
    sys.modules.update(kept)
    assert [check["status"] for check in found] == ["failed", "failed"]
    assert [check["found"].split(" ")[0] for check in found] == ["unavailable:", "not"]
    assert "no_such_module" in found[0]["fix"]
    assert "WanNetworkTrainer.call_dit: expected (self, args, accelerator," in found[1]["fix"]


def test_where_a_training_could_start(capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("MUSUBI_TUNER_HOME"):
        pytest.skip("MUSUBI_TUNER_HOME is not set: no musubi-tuner checkout to look at")
    status, checks = report(capsys)
    assert status == 0
    assert checks["seams"]["status"] == "ok"
    assert "as released" in checks["musubi-tuner"]["found"]
    assert doctor.run(parsed()) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ready to train"


@pytest.mark.usefixtures("nowhere")
def test_the_pocket_preset_fits_anywhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("easydict", "torchvision"):  # musubi-tuner's, which the pocket host does without
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(requirements, "host_packages", lambda: tmp_path / "host-packages")
    status, checks = report(capsys, "--preset", "pocket")
    assert status == 0
    assert {checks[name]["status"] for name in ("musubi-tuner", "easydict", "torchvision")} == {"info"}
    assert checks["memory, 17 frames of 64x64"]["status"] == "ok"
    assert checks["bitsandbytes"]["status"] != "failed"


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(("folder", "status"), [("host-packages", "ok"), ("site-packages", "failed")])
def test_a_torchvision_without_its_operators(
    folder: str, status: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Among the other packages it breaks diffusers, which the pocket host imports; apart it does no harm."""
    package = tmp_path / folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    others = [entry for entry in sys.path if not (Path(entry) / "torchvision").is_dir()]
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages"), *others])
    monkeypatch.setattr(requirements, "host_packages", lambda: tmp_path / "host-packages")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "torchvision"}
    ended, checks = report(capsys, "--preset", "pocket")
    sys.modules.update(kept)
    assert checks["torchvision"]["status"] == status
    assert ended == (status == "failed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_14b_preset_needs_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("MUSUBI_TUNER_HOME"):
        pytest.skip("MUSUBI_TUNER_HOME is not set: no musubi-tuner checkout to look at")
    status, checks = report(capsys, "--preset", "circle-rotate-24gb")
    assert status == 1
    smallest, *others = (check for name, check in checks.items() if name.startswith("memory"))
    assert smallest["status"] == "failed"
    assert "--preset pocket" in smallest["fix"]
    assert {check["status"] for check in others} == {"info"}
    assert checks["bitsandbytes"]["status"] == "failed"  # its optimizer is adamw8bit


@pytest.mark.usefixtures("nowhere")
def test_the_type_of_the_weights_counts(tmp_path: Path) -> None:
    preset = doctor_preset.flags("pocket")
    found = []
    for dtype in (np.float16, np.float32):
        save_file({"w": np.zeros(64, dtype), "i": np.zeros(1, np.int64)}, tmp_path / "dit.safetensors")
        found += [doctor_preset.stored(tmp_path / "dit.safetensors")]
    assert found == ["fp16", "fp32"]
    assert doctor_preset.stored(None) == doctor_preset.stored(tmp_path / "gone") == "fp16"
    assert [check.name for check in doctor_preset.memory(preset, None)] == ["memory, 17 frames of 64x64"]


def test_an_unknown_preset_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"--preset nope: unknown, expected one of .*pocket"):
        doctor.run(parsed("--preset", "nope"))
