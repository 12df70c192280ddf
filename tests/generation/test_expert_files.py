"""Experts from single files under Wan's own names: the frames of the folder they came from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from musubi_ext.errors import UserError
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.generation.pipeline import load_pipeline
from musubi_ext.pocket.config import random_pipeline
from musubi_ext.pocket.upstream import to_upstream


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, Path]]:
    """Another pipeline than `tiny_pipeline`, and its experts as single files."""
    folder = tmp_path_factory.mktemp("experts")
    base = random_pipeline(folder / "base", seed=5)
    files = []
    for component in ("transformer", "transformer_2"):
        state = load_file(base / component / "diffusion_pytorch_model.safetensors")
        width = state["condition_embedder.text_embedder.linear_1.weight"].shape[1]
        files.append(folder / f"{component}.safetensors")
        save_file(to_upstream(state, width), files[-1])
    return base, (files[0], files[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_file_is_the_expert_it_was(
    dtype: torch.dtype, tiny_pipeline: Path, others: tuple[Path, tuple[Path, Path]]
) -> None:
    base, files = others
    found = load_pipeline(tiny_pipeline, dtype, experts=files)
    expected, before = load_pipeline(base, dtype), load_pipeline(tiny_pipeline, dtype)
    for component in ("transformer", "transformer_2"):
        state, wanted = getattr(found, component).state_dict(), getattr(expected, component).state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)
        assert {name: tensor.dtype for name, tensor in state.items()} == {
            name: tensor.dtype for name, tensor in wanted.items()
        }
        assert not getattr(found, component).training
        old = getattr(before, component).state_dict()
        assert not all(torch.equal(state[name], old[name]) for name in old)


def test_a_video_is_made_with_them(tiny_pipeline: Path, others: tuple[Path, tuple[Path, Path]]) -> None:
    settings = {"size": (32, 32), "frames": 5, "steps": 2, "seed": 1}
    frame = np.full((32, 32, 3), 90, np.uint8)
    rotate = CircleRotate(str(tiny_pipeline))
    plain = rotate(frame, "camera circles", **settings).frames
    rotate.pipeline = load_pipeline(tiny_pipeline, experts=others[1])
    assert not np.array_equal(rotate(frame, "camera circles", **settings).frames, plain)


def test_both_files_are_judged_at_once(tiny_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load_pipeline(tiny_pipeline, experts=(tmp_path / "high.ckpt", tmp_path / "low.safetensors"))
    assert [problem.split()[0] for problem in refused.value.problems] == ["experts.high", "experts.low"]


def test_a_torn_file_is_named(tiny_pipeline: Path, others: tuple[Path, tuple[Path, Path]], tmp_path: Path) -> None:
    (tmp_path / "high.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"high\.safetensors"):
        load_pipeline(tiny_pipeline, experts=(tmp_path / "high.safetensors", others[1][1]))


@pytest.mark.parametrize(
    ("lost", "said"), [("head.modulation", "missing keys"), ("blocks.0.ffn.0.weight", "blocks.0.ffn")]
)
def test_a_file_that_lacks_something_is_refused(
    lost: str, said: str, tiny_pipeline: Path, others: tuple[Path, tuple[Path, Path]], tmp_path: Path
) -> None:
    state = load_file(others[1][0])
    del state[lost]
    save_file(state, tmp_path / "high.safetensors")
    with pytest.raises(UserError, match=said):
        load_pipeline(tiny_pipeline, experts=(tmp_path / "high.safetensors", others[1][1]))


def test_another_architecture_is_refused(
    tiny_pipeline: Path, others: tuple[Path, tuple[Path, Path]], tmp_path: Path
) -> None:
    state = load_file(others[1][0])
    state["patch_embedding.weight"] = state["patch_embedding.weight"][:, :16].contiguous()  # text-to-video
    save_file(state, tmp_path / "high.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        load_pipeline(tiny_pipeline, experts=(tmp_path / "high.safetensors", others[1][1]))
