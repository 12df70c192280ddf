"""One joint walk of the VAE equals diffusers' own two, for every length, conditioning, layout and batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from musubi_ext.errors import UserError
from musubi_ext.orbits.cache.causal_encoder import CausalEncoder
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.conditioning import condition_video
from musubi_ext.pocket.config import TINY, build_vae

FRAMES = (1, 5, 9, 17, 33, 121)  # from 109 frames on even the last of 1/4-rate layers repeats


def wan_vae(base_dim: int = 4) -> Any:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=base_dim).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> Any:
    """Wan2.1's layout: frames halved at the second and third level, 16 channels."""
    vae = wan_vae()
    for parameter in vae.encoder.parameters():  # fresh biases are small: without them grey would be all too simple
        if parameter.ndim == 1:
            parameter.data.uniform_(-0.5, 0.5)
    return vae


def clip_of(frames: int, batch: int = 1, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.rand(batch, 3, frames, *size, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def two_walks(vae: Any, video: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    given = torch.stack([condition_video(clip, last) for clip in video])
    with torch.no_grad():
        clip, image = (vae.encode(part).latent_dist.mode() for part in (video, given))
    return clip, image


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("frames", FRAMES)
def test_the_joint_walk_is_exact(vae: Any, frames: int, last: bool) -> None:
    video = clip_of(frames)
    expected = two_walks(vae, video, last)
    with torch.no_grad():
        clip, given = CausalEncoder(vae).encode_pair(video, last=last)
    assert given.shape == clip.shape == (1, 16, (frames - 1) // 4 + 1, 2, 3)
    for ours, theirs in zip((clip, given), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_in_double_precision_only_rounding_is_left(last: bool) -> None:
    """What differs in fp32 is the order of sums: in fp64 it shrinks by nine digits."""
    double, video = wan_vae().double(), clip_of(33).double()
    expected = two_walks(double, video, last)
    with torch.no_grad():
        pair = CausalEncoder(double).encode_pair(video, last=last)
    for ours, theirs in zip(pair, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-14, rtol=0)


def test_a_black_frame_has_no_length_to_divide_by() -> None:
    """RMS norm of a pixel that is 0 in every channel: 0 as in diffusers, not NaN."""
    plain, video = wan_vae(), torch.zeros(1, 3, 9, 16, 16)
    for parameter in plain.encoder.conv_in.parameters():
        parameter.data.zero_()
    expected = two_walks(plain, video, False)
    with torch.no_grad():
        pair = CausalEncoder(plain).encode_pair(video, last=False)
    for ours, theirs in zip(pair, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk", [8, 16])
def test_longer_chunks_and_batches_change_nothing(vae: Any, chunk: int) -> None:
    video = clip_of(17, batch=3)
    expected = two_walks(vae, video, False)
    with torch.no_grad():
        pair = CausalEncoder(vae).encode_pair(video, last=False, chunk=chunk)
    for ours, theirs in zip(pair, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


class Convolved(TorchFunctionMode):
    """Frames that a convolution of 3x3x3 computed, by its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: Counter[int] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.conv3d:
            self.frames[id(args[1])] += result.shape[2]
        return result


def test_the_tail_is_not_computed(vae: Any) -> None:
    """At full resolution the second walk computes 4 to 12 frames, whatever the clip's length."""
    layers = vae.encoder.conv_in, vae.encoder.down_blocks[0].conv1, vae.encoder.down_blocks[1].conv2
    with torch.no_grad(), Convolved() as counted:
        CausalEncoder(vae).encode_pair(clip_of(121), last=False)
    computed = [counted.frames[id(layer.weight)] for layer in layers]
    assert computed == sorted(computed)
    assert 121 < computed[0] <= computed[-1] <= 121 + 12


@pytest.mark.parametrize("last", [False, True])
def test_windows_together_equal_each_alone(last: bool) -> None:
    torch.manual_seed(1)
    tiny = build_vae(TINY)
    encoders = Encoders(tiny, torch.nn.Identity(), Tokenizer())
    random = np.random.default_rng(0)
    windows = [random.integers(0, 256, (9, 32, 48, 3), dtype=np.uint8) for _ in range(3)]
    latents, images = encoders.encode_windows(windows, last=last)
    for window, latent, image in zip(windows, latents, images, strict=True):
        torch.testing.assert_close(latent, encoders.encode_clip(window), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(image, encoders.encode_condition(window, last=last), atol=1e-5, rtol=1e-5)


def test_another_layout_is_refused() -> None:
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(base_dim=4, is_residual=True, patch_size=2, in_channels=12, out_channels=12)
    with pytest.raises(UserError, match="TI2V-5B"):
        CausalEncoder(vae)


class Tokenizer:
    model_max_length = 8
