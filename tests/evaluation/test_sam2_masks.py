"""SAM 2's video model through transformers: a small random one saved and loaded, or unavailable with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from musubi_ext.evaluation.features import ModelSource, Network
from musubi_ext.evaluation.features.loaded import loaded
from musubi_ext.evaluation.masks import MaskSource, find_masks, sam2
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.orbits.render import render

SIDE = 64


def small_model() -> torch.nn.Module:
    """The class of the pinned weights with about a million random parameters, for pictures of 64 × 64."""
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 2, 1],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=128,
    )
    torch.manual_seed(0)
    return Sam2VideoModel(
        Sam2VideoConfig(
            vision_config=vision,
            prompt_encoder_config={"hidden_size": 128, "image_size": SIDE},
            mask_decoder_config={
                "hidden_size": 128,
                "mlp_dim": 32,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 16,
            },
            image_size=SIDE,
            num_maskmem=3,
            memory_attention_hidden_size=128,
            memory_attention_num_layers=1,
            memory_attention_feed_forward_hidden_size=32,
            memory_attention_rope_feat_sizes=[4, 4],
            memory_encoder_hidden_size=128,
            mask_downsampler_embed_dim=128,
            memory_fuser_embed_dim=128,
            memory_fuser_intermediate_dim=32,
        )
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    small_model().save_pretrained(folder / "sam2.1-hiera-tiny")
    return folder


def test_masks_come_at_the_clips_size_with_name_coverage_and_licence(weights: Path) -> None:
    frames = render(3, size=(96, 64), frames=5).frames
    result = find_masks(MaskSource.SAM2, frames, models=ModelSource(weights))
    assert result.masks.shape == (5, 64, 96)
    assert (result.provider, result.licence) == ("sam2", "Apache-2.0")
    assert result.coverage == result.masks.any(axis=(1, 2)).mean()
    again = find_masks(MaskSource.SAM2, frames, models=ModelSource(weights))
    assert np.array_equal(result.masks, again.masks)
    assert find_masks(MaskSource.SAM2, frames[:1], models=ModelSource(weights)).masks.shape == (1, 64, 96)


def test_box_point_and_middle_are_different_prompts(weights: Path) -> None:
    frames = render(4, frames=3).frames
    middle = find_masks("sam2", frames, models=ModelSource(weights)).masks
    assert np.array_equal(middle, find_masks("sam2", frames, models=ModelSource(weights), point=(32, 32)).masks)
    for prompt in ({"point": (5.0, 60.0)}, {"box": (2.0, 40.0, 30.0, 62.0)}):
        assert not np.array_equal(middle[0], find_masks("sam2", frames, models=ModelSource(weights), **prompt).masks[0])


def test_frames_reach_the_model_as_its_own_processor_prepares_them() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3), dtype=np.uint8)
    prepared = sam2._Prepared(frame, SIDE)
    assert (len(prepared), prepared[0].shape) == (1, (3, SIDE, SIDE))
    flat = sam2._Prepared(np.full((1, 20, 30, 3), 255, np.uint8), SIDE)[0]
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        assert flat[channel] == pytest.approx(np.full((SIDE, SIDE), (1 - mean) / std), abs=1e-5)


def test_a_lost_instance_is_an_empty_mask(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object score below 0 is the model's own word for "not in this frame"."""
    model = loaded(ModelSource(weights), Network.SAM2).model
    head = model.mask_decoder.pred_obj_score_head
    monkeypatch.setattr(head, "forward", lambda tokens: torch.full((*tokens.shape[:-1], 1), -5.0))
    result = find_masks("sam2", render(3, frames=3).frames, models=ModelSource(weights))
    assert (result.coverage, bool(result.masks.any())) == (0.0, False)


def test_absent_weights_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = render(3, frames=2).frames
    absent = (
        r"sam2.1-hiera-tiny: not found in .* nor in the local hub cache .*: put its config.json and model.safetensors"
    )
    with pytest.raises(UnavailableError, match=absent):
        find_masks("sam2", frames, models=ModelSource(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    reason = r"facebook/sam2.1-hiera-tiny: no models folder was given nor in the local hub cache"
    with pytest.raises(UnavailableError, match=reason):
        find_masks("sam2", frames)
    results = evaluate(frames, masks=MaskSource.SAM2, metrics=["subject_drift", "subject_flow"])
    for result in results.values():
        assert str(result.unavailable).startswith("facebook/sam2.1-hiera-tiny: no models folder")


def test_a_broken_model_is_unavailable(tmp_path: Path) -> None:
    model = tmp_path / "sam2.1-hiera-tiny"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}", encoding="utf-8")
    with pytest.raises(UnavailableError, match="model_type: expected sam2_video, found None"):
        find_masks("sam2", render(3, frames=2).frames, models=ModelSource(tmp_path))


def test_a_model_with_weights_missing_is_unavailable(weights: Path, tmp_path: Path) -> None:
    whole = weights / "sam2.1-hiera-tiny"
    tensors = load_file(whole / "model.safetensors")
    lost = next(name for name in tensors if name.startswith("mask_decoder"))
    broken = tmp_path / whole.name
    broken.mkdir()
    save_file({name: value for name, value in tensors.items() if name != lost}, broken / "model.safetensors")
    (broken / "config.json").write_bytes((whole / "config.json").read_bytes())
    with pytest.raises(UnavailableError, match=f"no weights of the expected shape for '{lost}'"):
        find_masks("sam2", render(3, frames=2).frames, models=ModelSource(tmp_path))


def test_prompts_are_checked_before_weights_are_looked_for(tmp_path: Path) -> None:
    frames = render(3, frames=2).frames
    with pytest.raises(ValueError, match="at most one"):
        find_masks("sam2", frames, box=(0, 0, 5, 5), point=(3, 3), models=ModelSource(tmp_path))
    with pytest.raises(ValueError, match="point: expected 0 <= x < 64"):
        find_masks("sam2", frames, point=(64, 3), models=ModelSource(tmp_path))
    with pytest.raises(ValueError, match="box: expected"):
        find_masks("sam2", frames, box=(0, 0, 65, 5), models=ModelSource(tmp_path))
