"""What the encoders make of a clip and a caption equals what diffusers' pipeline makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.conditioning import condition_mask
from musubi_ext.pocket.config import LATENT_CHANNELS, random_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diffusers import WanImageToVideoPipeline

    pipeline = WanImageToVideoPipeline.from_pretrained(random_pipeline(tmp_path_factory.mktemp("pipeline")))
    pipeline.vae.register_to_config(  # Wan's own are neither 0 nor 1: a forgotten scaling must show
        latents_mean=[0.1 * channel - 0.5 for channel in range(LATENT_CHANNELS)],
        latents_std=[1 + 0.2 * channel for channel in range(LATENT_CHANNELS)],
    )
    return pipeline


@pytest.fixture(scope="module")
def encoders(pipeline: Any) -> Encoders:
    return Encoders(pipeline.vae, pipeline.text_encoder, pipeline.tokenizer)


def moving_square(seed: int, count: int = 17, width: int = 32, height: int = 32) -> np.ndarray:
    """Frames (F, H, W, 3): a bright square crossing a ground of one random colour."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = np.random.default_rng(seed).integers(0, 120, 3, dtype=np.uint8)
    for index, frame in enumerate(frames):
        frame[8:16, index : index + 8] = (230, 40 * seed % 256, 60)
    return frames


@pytest.mark.parametrize("last", [False, True])
def test_conditioning_is_what_the_pipeline_builds(pipeline: Any, encoders: Encoders, last: bool) -> None:
    frames = moving_square(3)
    picture = {"image": frames[0], **({"last_image": frames[-1]} if last else {})}
    given = {
        name: pipeline.video_processor.preprocess(pipeline.video_processor.numpy_to_pil(value / 255), 32, 32)
        for name, value in picture.items()
    }
    _, condition = pipeline.prepare_latents(
        given["image"], 1, 16, 32, 32, 17, torch.float32, "cpu", last_image=given.get("last_image")
    )
    built = encoders.encode_condition(frames, last=last)
    assert built.shape == (20, 5, 4, 4)
    torch.testing.assert_close(built, condition[0], atol=2e-5, rtol=1e-5)
    assert built[:4].sum() == (5 if last else 4) * 16


def test_mask_marks_the_given_pixel_frames() -> None:
    mask = condition_mask(9, (1, 1), last=True)[:, :, 0, 0]
    assert mask.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert condition_mask(1, (2, 3), last=False).shape == (4, 1, 2, 3)


def test_latents_decode_to_the_clip_with_the_pipelines_scaling(pipeline: Any, encoders: Encoders) -> None:
    frames = moving_square(4)
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        mode = pipeline.vae.encode(video).latent_dist.mode()[0]
    mean = torch.tensor(pipeline.vae.config.latents_mean).view(16, 1, 1, 1)
    std = torch.tensor(pipeline.vae.config.latents_std).view(16, 1, 1, 1)
    torch.testing.assert_close(encoders.encode_clip(frames) * std + mean, mode, atol=1e-5, rtol=1e-5)


def test_caption_is_the_pipelines_embedding_without_its_padding(pipeline: Any, encoders: Encoders) -> None:
    caption = "  a red&amp;blue  car,\ncamera circles left to right "
    ours = encoders.encode_caption(caption)
    tokens = encoders.text_tokens
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(caption, do_classifier_free_guidance=False, max_sequence_length=tokens)
    assert 0 < len(ours) < tokens
    torch.testing.assert_close(ours, theirs[0, : len(ours)])
    assert not theirs[0, len(ours) :].any()
