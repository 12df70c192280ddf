"""`musubi-ext adapter`: files converted there and back are the same tensors; broken ones are refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from musubi_ext.adapters.files import read_lora, write_lora
from musubi_ext.cli import main


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """One linear of rank 2 and alpha 1 in musubi-tuner's keys."""
    path, name = tmp_path / "orbit_h.safetensors", "lora_unet_blocks_0_self_attn_q"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, 8, generator=generator),
        f"{name}.lora_up.weight": torch.randn(8, 2, generator=generator),
        f"{name}.alpha": torch.tensor(1.0),
    }
    write_lora(path, tensors, {"ss_network_dim": "2"})
    return path


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "musubi"])
def test_convert_there_and_back(form: str, lora: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert main(["adapter", "convert", str(lora), "--to", form, "-o", str(there)]) == 0
    assert main(["adapter", "convert", str(there), "--to", "musubi", "-o", str(back)]) == 0
    before, after = read_lora(lora).tensors, read_lora(back).tensors
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_inspect_and_verify_a_file(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapter", "inspect", str(lora)]) == 0
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (rows["format"], rows["rank"], rows["alpha"]) == ("musubi", "2", "1.0")
    assert main(["adapter", "verify", str(lora)]) == 0


def test_an_existing_output_is_kept(lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"precious")
    convert = ["adapter", "convert", str(lora), "--to", "comfyui", "-o", str(there)]
    assert main(convert) == 2
    assert "exists" in capsys.readouterr().err
    assert there.read_bytes() == b"precious"
    assert main([*convert, "--overwrite"]) == 0


def test_a_truncated_file_is_refused_by_name(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora.write_bytes(lora.read_bytes()[:-16])
    assert main(["adapter", "verify", str(lora)]) == 2
    assert lora.name in capsys.readouterr().err
