"""Wan's causal VAE encoder over a clip, and over "its first frame, then grey": the second at a fraction of the cost.

diffusers' `AutoencoderKLWan._encode` (and musubi-tuner's `WanVAE_.encode`) walk a video in chunks of 1, 4, 4, … frames;
every causal convolution keeps the last two frames it was given. Image-to-video needs two walks: the clip, and its first
frame followed by zeros. Two facts save most of the second, neither an approximation:

- its first chunk is the clip's own first chunk, so the state after it is shared (`State.fork`);
- n convolutions after the first frame, only the 2n frames that follow it can differ from each other. From there on the
  activations of zeros repeat, so they are computed once (`Run`): at full resolution 4 to 20 frames instead of all.

The rest is less traffic: each convolution's input (past, normed frames, the sides' zeros) is made in one place instead
of by six copies. Weights are the model's own modules. `tests/orbits/test_cache_causal.py` compares it with diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from musubi_ext.errors import UserError

PAST = 2  # frames that a causal convolution looks back
NORM_FLOOR = 1e-12  # of torch.nn.functional.normalize
CHUNK = 4  # pixel frames that make one latent frame, and the stride of the model's own walk


@dataclass(frozen=True)
class Run:
    """`length` frames of which the first are given, (B, C, k, H, W); every further one equals the last given."""

    frames: Tensor
    length: int

    def take(self, count: int) -> Tensor:
        """The first `count` frames, the last one repeated as needed: (B, C, count, H, W)."""
        given = self.frames.shape[2]
        if count <= given:
            return self.frames[:, :, :count]
        return torch.cat([self.frames, self.frames[:, :, -1:].expand(-1, -1, count - given, -1, -1)], 2)

    def last(self) -> Tensor:
        """The last frame: (B, C, 1, H, W)."""
        return self.frames[:, :, -1:]

    def each(self, function: Any) -> Run:
        """A function of every frame by itself."""
        return Run(function(self.frames), self.length)


@dataclass
class State:
    """What the encoder remembers of the frames before: by convolution, its last one or two inputs."""

    past: dict[Any, Tensor] = field(default_factory=dict)

    def fork(self) -> State:
        """A second walk that goes on from here. Tensors are shared: none is ever written to."""
        return State(dict(self.past))


class CausalEncoder:
    """The encoder of an AutoencoderKLWan of Wan2.1's layout, which Wan2.2-A14B uses too (not TI2V-5B's).

    `encode_pair` gives the means of the posteriors of the clip and of what the model is given of it.
    Raises UserError for the VAE of TI2V-5B.
    """

    def __init__(self, vae: Any) -> None:
        if vae.config.is_residual:
            raise UserError("the VAE: expected Wan2.1's, found the residual one of Wan2.2-TI2V-5B (use Wan2.1_VAE)")
        self.vae, self.encoder = vae, vae.encoder

    def encode(self, video: Tensor, chunk: int = CHUNK) -> Tensor:
        """(B, 3, 4n+1, H, W) in [−1, 1] → means (B, 16, n+1, H/8, W/8); `chunk` frames at a time, a multiple of 4."""
        state = State()
        return self._means([self._step(video[:, :, :1], state), *self._rest(video, state, chunk)])

    def encode_pair(self, video: Tensor, *, last: bool, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
        """Means of the clip, and of its first frame followed by zeros, with `last` also its last frame at the end."""
        state = State()
        first = self._step(video[:, :, :1], state)
        given = [first, *self._given(video, state.fork(), last)]
        return self._means([first, *self._rest(video, state, chunk)]), self._means(given)

    def _rest(self, video: Tensor, state: State, chunk: int) -> list[Tensor]:
        return [self._step(video[:, :, start : start + chunk], state) for start in range(1, video.shape[2], chunk)]

    def _given(self, video: Tensor, state: State, last: bool) -> list[Tensor]:
        """Latents of zeros after the first frame; with `last` the chunk that ends in the last frame is walked as is."""
        tail = video.shape[2] - 1
        grey = torch.zeros_like(video[:, :, :1])
        zeros = tail - CHUNK if last and tail else tail
        parts = [self._run(Run(grey, zeros), state)] if zeros else []
        if last and tail:
            parts.append(self._step(torch.cat([grey.expand(-1, -1, CHUNK - 1, -1, -1), video[:, :, -1:]], 2), state))
        return parts

    def _means(self, parts: list[Tensor]) -> Tensor:
        means: Tensor = self.vae.quant_conv(torch.cat(parts, 2)).chunk(2, dim=1)[0]
        return means

    def _step(self, frames: Tensor, state: State) -> Tensor:
        return self._run(Run(frames, frames.shape[2]), state)

    def _run(self, run: Run, state: State) -> Tensor:
        """`WanEncoder3d.forward` on a run of frames after those in `state`."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        encoder = self.encoder
        if self.vae.config.patch_size is not None:
            run = run.each(lambda frames: patchify(frames, self.vae.config.patch_size))
        run = _convolve(encoder.conv_in, run, state)
        for layer in encoder.down_blocks:
            run = _layer(layer, run, state)
        first, *others = encoder.mid_block.resnets
        run = _residual(first, run, state)
        for attention, block in zip(encoder.mid_block.attentions, others, strict=True):
            run = _residual(block, run.each(attention), state)
        run = _convolve(encoder.conv_out, run, state, encoder.norm_out)
        return run.take(run.length)


def _layer(layer: Any, run: Run, state: State) -> Run:
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock

    if isinstance(layer, WanResidualBlock):
        return _residual(layer, run, state)
    return _downsample(layer, run, state) if isinstance(layer, WanResample) else run.each(layer)


def _residual(block: Any, run: Run, state: State) -> Run:
    """`WanResidualBlock.forward`: two convolutions beside a shortcut that sees one frame at a time."""
    plain = isinstance(block.conv_shortcut, torch.nn.Identity)
    shortcut = run if plain else run.each(lambda frames: _conv3d(block.conv_shortcut, frames))
    inner = _convolve(block.conv1, run, state, block.norm1)
    inner = _convolve(block.conv2, inner, state, block.norm2)
    return Run(inner.frames.add_(shortcut.take(inner.frames.shape[2])), run.length)


def _convolve(convolution: Any, run: Run, state: State, norm: Any = None) -> Run:
    """A causal convolution over three frames, of SiLU(norm(run)) where a norm is given.

    Two frames after the last that differs, its output repeats. The input is made once, in place: the two frames before,
    the frames given, the first of the repeated ones.
    """
    given = run.frames.shape[2]
    count = min(given + PAST, run.length)
    joined = _joined(state.past.get(convolution), run.frames, PAST, count)
    here = joined[:, :, PAST : PAST + given]
    if norm is not None:
        _activate(norm, run.frames, here)
    else:
        here.copy_(run.frames)
    joined[:, :, PAST + given :] = here[:, :, -1:]
    state.past[convolution] = joined[:, :, -PAST:].clone()  # a view would keep the whole chunk alive
    return Run(_conv3d(convolution, joined), run.length)


def _joined(past: Tensor | None, frames: Tensor, before: int, count: int) -> Tensor:
    """Room for `before` + `count` frames, the first of them filled with the past, or with zeros at the clip's start."""
    batch, channels, _, height, width = frames.shape
    layout = torch.channels_last_3d if frames.device.type == "cpu" else torch.contiguous_format
    shape = batch, channels, before + count, height, width
    joined = torch.empty(shape, dtype=frames.dtype, device=frames.device, memory_format=layout)
    joined[:, :, :before] = 0 if past is None else past
    return joined


def _activate(norm: Any, frames: Tensor, out: Tensor) -> None:
    """SiLU of diffusers' `WanRMS_norm`, written to `out`."""
    length = torch.linalg.vector_norm(frames, dim=1, keepdim=True).clamp_min_(NORM_FLOOR)
    torch.mul(frames, length.reciprocal_(), out=out)
    out.mul_(norm.gamma * norm.scale)
    if isinstance(norm.bias, Tensor):
        out.add_(norm.bias)
    functional.silu(out, inplace=True)


def _conv3d(convolution: Any, frames: Tensor) -> Tensor:
    """`WanCausalConv3d.forward` on frames that already begin with the past: padded at the sides alone."""
    sides = convolution._padding[2], convolution._padding[0]
    return functional.conv3d(frames, convolution.weight, convolution.bias, convolution.stride, padding=(0, *sides))


def _downsample(layer: Any, run: Run, state: State) -> Run:
    """`WanResample.forward`: halves the sides and, after the first frame, the frames, three to one with stride two."""
    plane = run.each(lambda frames: _each_frame(layer.resample, frames))
    if layer.mode != "downsample3d":
        return plane
    past = state.past.get(layer)
    state.past[layer] = plane.last().clone()
    if past is None:
        return plane
    length = run.length // 2
    count = min((plane.frames.shape[2] + 1) // 2 + 1, length)  # the output repeats once its three inputs do
    joined = _joined(past, plane.frames, 1, 2 * count)
    joined[:, :, 1:] = plane.take(2 * count)
    return Run(_conv3d(layer.time_conv, joined), length)


def _each_frame(function: Any, frames: Tensor) -> Tensor:
    """A function of pictures (N, C, H, W) on every frame of (B, C, F, H, W)."""
    batch, count = frames.shape[0], frames.shape[2]
    pictures = function(frames.transpose(1, 2).flatten(0, 1))
    video: Tensor = pictures.unflatten(0, (batch, count)).transpose(1, 2)
    return video
