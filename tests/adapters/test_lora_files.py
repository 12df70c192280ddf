"""What is not a whole, sound LoRA file is refused by name; what is written is always the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_lora import lora

from musubi_ext.adapters.files import read_lora, write_lora
from musubi_ext.adapters.keys import Format
from musubi_ext.adapters.tensors import read_tensors, write_tensors
from musubi_ext.errors import UserError
from musubi_ext.storage import sha256


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "orbit_h.safetensors"
    write_lora(target, lora(), {"ss_steps": "7"})
    return target


@pytest.mark.parametrize("keep", [0, 5, 8, 200, -1])
def test_truncated_anywhere(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"orbit_h\.safetensors: (truncated|not a safetensors)"):
        read_lora(path)


def test_not_safetensors_at_all(path: Path, tmp_path: Path) -> None:
    torch.save(lora(), path)
    with pytest.raises(UserError, match="not a safetensors"):
        read_lora(path)
    for header in (b"not json", b"[1, 2]   ", b"\xff" * 8):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(UserError, match="not a safetensors file"):
            read_lora(path)
    with pytest.raises(UserError, match="no such file"):
        read_lora(tmp_path / "absent.safetensors")


def test_a_header_of_more_than_a_megabyte_is_not_read(path: Path) -> None:
    save_file(lora(), path, {"note": "x" * (1 << 20)})
    with pytest.raises(UserError, match=r"header would be 10[0-9]+ bytes"):
        read_lora(path)


def test_every_fault_of_a_file_at_once(path: Path) -> None:
    tensors = lora()
    name = "lora_unet_blocks_0_self_attn_"
    del tensors[f"{name}q.lora_up.weight"]
    tensors[f"{name}k.lora_down.weight"] = torch.ones(3, 32)
    tensors[f"{name}v.lora_up.weight"][0, 0] = float("nan")
    tensors[f"{name}o.alpha"] = torch.tensor(0.0)
    tensors["lora_unet_blocks_1_ffn_0.lora_down.weight"] = torch.ones(4, 32, dtype=torch.int32)
    tensors["lora_unet_blocks_1_ffn_2.lora_down.weight"] = torch.ones(4)
    save_file(tensors, path)
    with pytest.raises(UserError) as told:
        read_lora(path)
    expected = [
        "ffn_0.lora_down.weight is int32",
        f"NaN or infinity in {name}v.lora_up.weight",
        f"{name}k: down has rank 3, up has rank 4",
        f"{name}o.alpha is 0.0",
        f"{name}q.lora_up.weight missing",
        "ffn_2.lora_down.weight has shape (4,)",
    ]
    for words in expected:
        assert any(words in problem for problem in told.value.problems), words
    assert len(told.value.problems) == len(expected)
    assert all(problem.startswith(str(path)) for problem in told.value.problems)


def test_nothing_is_written_of_what_would_be_refused(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    broken = lora()
    broken["lora_unet_blocks_0_ffn_0.lora_up.weight"][0, 0] = float("inf")
    with pytest.raises(UserError, match="NaN or infinity"):
        write_lora(path, broken)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_same_lora_is_the_same_bytes(path: Path) -> None:
    """safetensors itself orders metadata by a hash that is seeded anew each time."""
    metadata = {f"key{index}": str(index) for index in range(20)}
    digests = set()
    for given in (metadata, dict(reversed(metadata.items())), metadata):
        write_tensors(path, {"a": torch.ones(3)}, given)
        digests.add(sha256(path))
    assert len(digests) == 1
    tensors, found = read_tensors(path)
    assert found == metadata
    assert torch.equal(tensors["a"], torch.ones(3))


def test_views_of_one_storage_are_written(path: Path) -> None:
    whole = torch.arange(12.0).reshape(2, 6)
    write_tensors(path, {"a": whole[:1], "b": whole[1:], "c": whole.T}, {})
    tensors, _ = read_tensors(path)
    assert torch.equal(tensors["c"], whole.T)
    assert torch.equal(tensors["b"], whole[1:])


def test_alpha_of_a_file_that_diffusers_saved(path: Path) -> None:
    """One alpha for all, no types noted: float32 scalars; a scheme other than alpha/rank is refused."""
    write_lora(path, lora(alpha=None), form=Format.DIFFUSERS)
    tensors, _ = read_tensors(path)
    config = {"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.alpha_pattern": {"blocks.0.attn1.to_q": 2}}
    write_tensors(path, tensors, {"lora_adapter_metadata": json.dumps(config)})
    found = read_lora(path).tensors
    assert found["lora_unet_blocks_0_self_attn_q.alpha"].item() == 2
    assert found["lora_unet_blocks_1_self_attn_q.alpha"].item() == 8
    write_tensors(path, tensors, {"lora_adapter_metadata": json.dumps({**config, "transformer.use_rslora": True})})
    with pytest.raises(UserError, match="use_rslora"):
        read_lora(path)
    for text in ("{", "[]", "{}"):
        write_tensors(path, tensors, {"lora_adapter_metadata": text})
        with pytest.raises(UserError, match="lora_adapter_metadata"):
            read_lora(path)
