"""An expert in Wan's own layout and back: bit for bit, and nothing lost on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.pocket import pipeline_path
from musubi_ext.pocket.upstream import TEXT_WIDTH, WEIGHTS, export_experts, from_upstream, to_upstream, widen
from musubi_ext.schedule.experts import Expert

TEXT = "text_embedding.0.weight"


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def pipeline(request: pytest.FixtureRequest) -> Path:
    return pipeline_path() if request.param == "shipped" else request.getfixturevalue("tiny_pipeline")


@pytest.fixture
def expert(tiny_pipeline: Path) -> dict[str, Tensor]:
    return load_file(tiny_pipeline / "transformer" / WEIGHTS)


@pytest.fixture
def copy(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A pipeline folder to write to."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "pipeline"))


def test_there_and_back_is_the_same_to_the_last_bit(pipeline: Path) -> None:
    for part in Expert:
        state = load_file(pipeline / part.component / WEIGHTS)
        wan = to_upstream(state)
        assert wan[TEXT].shape[1] == TEXT_WIDTH
        assert not wan[TEXT][:, 64:].any()
        back = from_upstream(wan, 64)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], tensor) and back[key].dtype == tensor.dtype for key, tensor in state.items())
        again = to_upstream(back)
        assert all(torch.equal(again[key], tensor) for key, tensor in wan.items())


def test_what_is_easily_mixed_up_keeps_its_place(expert: dict[str, Tensor]) -> None:
    wan = to_upstream(expert)
    assert torch.equal(wan["blocks.1.norm3.weight"], expert["blocks.1.norm2.weight"])
    assert torch.equal(wan["blocks.0.modulation"], expert["blocks.0.scale_shift_table"])
    assert torch.equal(wan["head.modulation"], expert["scale_shift_table"])
    assert torch.equal(wan["time_projection.1.bias"], expert["condition_embedder.time_proj.bias"])
    assert wan["blocks.0.modulation"].shape == (1, 6, 32)
    assert wan["head.modulation"].shape == (1, 2, 32)
    assert not any("img" in key for key in wan)


def test_every_key_that_does_not_fit_is_named(expert: dict[str, Tensor]) -> None:
    del expert["blocks.1.attn2.norm_q.weight"]
    expert["blocks.0.attn2.add_k_proj.weight"] = torch.zeros(32, 32)
    with pytest.raises(UserError) as raised:
        to_upstream(expert, where="expert.safetensors")
    unknown, missing = raised.value.problems
    assert unknown.startswith("expert.safetensors: unknown keys blocks.0.attn2.add_k_proj.weight")
    assert missing == "expert.safetensors: missing keys blocks.1.attn2.norm_q.weight"


def test_a_gap_between_blocks_is_seen(expert: dict[str, Tensor]) -> None:
    shifted = {key.replace("blocks.1.", "blocks.2."): tensor for key, tensor in expert.items()}
    with pytest.raises(UserError, match=r"unknown keys blocks\.2\.(.|\n)*missing keys blocks\.1\."):
        to_upstream(shifted)


def test_no_weight_in_use_is_cut_off(expert: dict[str, Tensor]) -> None:
    wan = to_upstream(expert)
    wan[TEXT][0, 64] = 1e-30
    with pytest.raises(UserError, match="expected a text embedding of 64 inputs and zeros behind"):
        from_upstream(wan, 64)
    with pytest.raises(UserError, match="takes 64 inputs, expected at most 32"):
        to_upstream(expert, 32)


def test_widening_leaves_what_is_wide_enough() -> None:
    states = torch.randn(3, 5)
    assert widen(states, 5) is states
    assert torch.equal(widen(states, 8), torch.cat([states, torch.zeros(3, 3)], dim=1))


def test_exported_files_are_float32_and_say_what_no_shape_shows(pipeline: Path, tmp_path: Path) -> None:
    paths = export_experts(pipeline, tmp_path)
    assert paths == {Expert.HIGH: tmp_path / "high.safetensors", Expert.LOW: tmp_path / "low.safetensors"}
    for part, path in paths.items():
        config = json.loads((pipeline / part.component / "config.json").read_text())
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata())
        assert len(metadata.pop("source_sha256")) == 64
        heads = str(config["num_attention_heads"])
        assert metadata == {"num_heads": heads, "freq_dim": "64", "text_dim": "64", "text_tokens": "24"}
        written, source = load_file(path), load_file(pipeline / part.component / WEIGHTS)
        assert {tensor.dtype for tensor in written.values()} == {torch.float32}
        assert all(torch.equal(tensor, source[key].float()) for key, tensor in from_upstream(written, 64).items())


def test_an_export_is_written_again_only_when_its_source_changes_or_it_is_damaged(copy: Path, tmp_path: Path) -> None:
    paths = export_experts(copy, tmp_path / "out")
    made = {part: path.stat().st_mtime_ns for part, path in paths.items()}
    content = paths[Expert.LOW].read_bytes()

    def rewritten() -> set[Expert]:
        export_experts(copy, tmp_path / "out")
        now = {part: path.stat().st_mtime_ns for part, path in paths.items()}
        changed = {part for part in Expert if now[part] != made[part]}
        made.update(now)
        return changed

    assert rewritten() == set()
    paths[Expert.LOW].write_bytes(content[:-100])
    assert rewritten() == {Expert.LOW}
    assert paths[Expert.LOW].read_bytes() == content
    weights = copy / "transformer" / WEIGHTS
    save_file({key: tensor * 2 for key, tensor in load_file(weights).items()}, weights)
    assert rewritten() == {Expert.HIGH}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["high.safetensors", "low.safetensors"]


def test_a_pipeline_that_musubi_tuner_could_not_run_is_refused_with_every_reason(copy: Path, tmp_path: Path) -> None:
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eps": 1e-5, "patch_size": [1, 1, 1]}))
    (copy / "transformer_2" / WEIGHTS).unlink()
    with pytest.raises(UserError) as raised:
        export_experts(copy, tmp_path / "out")
    assert len(raised.value.problems) == 3
    assert "patch_size: expected [1, 2, 2], as musubi-tuner's Wan has it, found [1, 1, 1]" in str(raised.value)
    assert str(copy / "transformer_2" / WEIGHTS) in str(raised.value)
    assert not (tmp_path / "out").exists()
