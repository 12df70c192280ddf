"""Wan's causal VAE encoder over a clip, and over "its first frame, then grey": the second at a fraction of the cost.

diffusers' `AutoencoderKLWan._encode` (and musubi-tuner's `WanVAE_.encode`) walk a video in chunks of 1, 4, 4, … frames;
every causal convolution keeps the last two frames it was given. Image-to-video needs two walks: the clip, and its first
frame followed by zeros. Two facts save most of the second, neither an approximation:

- its first chunk is the clip's own first chunk, so the state after it is shared (`State.fork`);
- n convolutions after the first frame, only the 2n frames that follow it can differ from each other. From there on the
  activations of zeros repeat, so they are computed once (`Run`): at full resolution 4 to 20 frames instead of all.

Weights are the model's own modules; only the order of the work is ours. `tests/orbits/test_cache_causal.py` proves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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

    def last(self, count: int) -> Tensor:
        """The last `count` ≤ `length` frames."""
        given = self.frames.shape[2]
        places = [min(place, given - 1) for place in range(self.length - count, self.length)]
        return self.frames[:, :, places]

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
    """

    def __init__(self, vae: Any) -> None:
        if vae.config.is_residual:
            raise ValueError("expected the VAE of Wan2.1, found the residual one of Wan2.2-TI2V-5B")
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
        run = _convolve(encoder.conv_out, run.each(lambda x: encoder.nonlinearity(encoder.norm_out(x))), state)
        return run.take(run.length)


def _layer(layer: Any, run: Run, state: State) -> Run:
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock

    if isinstance(layer, WanResidualBlock):
        return _residual(layer, run, state)
    return _downsample(layer, run, state) if isinstance(layer, WanResample) else run.each(layer)


def _residual(block: Any, run: Run, state: State) -> Run:
    """`WanResidualBlock.forward`: two convolutions beside a shortcut that sees one frame at a time."""
    shortcut = run.each(block.conv_shortcut)
    inner = _convolve(block.conv1, run.each(lambda x: block.nonlinearity(block.norm1(x))), state)
    inner = _convolve(block.conv2, inner.each(lambda x: block.nonlinearity(block.norm2(x))), state)
    return Run(inner.frames + shortcut.take(inner.frames.shape[2]), run.length)


def _convolve(convolution: Any, run: Run, state: State) -> Run:
    """A causal convolution over three frames. Two frames after the last that differs, its output repeats."""
    past = state.past.get(convolution)
    count = min(run.frames.shape[2] + 2, run.length)
    frames = run.take(count)
    state.past[convolution] = _last_two(past, run)
    return Run(convolution(frames, past), run.length)


def _last_two(past: Tensor | None, run: Run) -> Tensor:
    """The last two frames seen, or the only one."""
    if run.length == 1 and past is not None:
        return torch.cat([past[:, :, -1:], run.frames[:, :, :1]], 2)
    return run.last(min(2, run.length)).clone()  # a view would keep the whole chunk alive


def _downsample(layer: Any, run: Run, state: State) -> Run:
    """`WanResample.forward`: halves the sides and, after the first frame, the frames, three to one with stride two."""
    plane = run.each(lambda frames: _each_frame(layer.resample, frames))
    if layer.mode != "downsample3d":
        return plane
    past = state.past.get(layer)
    state.past[layer] = plane.last(1).clone()
    if past is None:
        return plane
    length = run.length // 2
    count = min((plane.frames.shape[2] + 1) // 2 + 1, length)  # the output repeats once its three inputs do
    return Run(layer.time_conv(torch.cat([past, plane.take(2 * count)], 2)), length)


def _each_frame(function: Any, frames: Tensor) -> Tensor:
    """A function of pictures (N, C, H, W) on every frame of (B, C, F, H, W)."""
    batch, count = frames.shape[0], frames.shape[2]
    pictures = function(frames.transpose(1, 2).flatten(0, 1))
    video: Tensor = pictures.unflatten(0, (batch, count)).transpose(1, 2)
    return video
