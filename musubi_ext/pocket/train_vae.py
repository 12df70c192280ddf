"""Train the pocket's causal video VAE: single frames first, then whole clips, then the decoder alone.

The last stage leaves every latent as it is, so experts and adapters made on earlier decoders stay valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from musubi_ext.pocket.config import Size, build_vae
from musubi_ext.pocket.optim import MatrixMuon, averaged
from musubi_ext.storage import atomic_path
from musubi_ext.video import Frames

KL_WEIGHT = 2e-4


@dataclass(frozen=True)
class Stage:
    """One stretch of training: `steps` batches of `batch` clips of `frames` frames, from a fresh learning rate."""

    name: str
    steps: int
    batch: int
    frames: int
    muon_lr: float
    decoder_only: bool = False


def train_vae(clips: Frames, size: Size, folder: Path, image_steps: int, clip_steps: int, decoder_steps: int) -> Any:
    """All stages from nothing; each stage's result is kept in `folder` and not trained again. Returns the VAE."""
    torch.manual_seed(0)
    vae = build_vae(size)
    _start_as_image_model(vae)
    stages = (
        Stage("images", image_steps, batch=16, frames=1, muon_lr=5e-3),
        Stage("clips", clip_steps, batch=2, frames=clips.shape[1], muon_lr=4e-3),
        Stage("decoder", decoder_steps, batch=2, frames=clips.shape[1], muon_lr=2e-3, decoder_only=True),
    )
    for seed, stage in enumerate(stages):
        done = folder / f"vae_{stage.name}.pt"
        if not done.exists():
            with atomic_path(done) as temporary:
                torch.save(_train(vae, clips, stage, seed), temporary)
        vae.load_state_dict(torch.load(done, weights_only=True))
    _standardise(vae, clips)
    return vae


def to_input(frames: np.ndarray) -> Tensor:
    """uint8 (B, F, H, W, 3) → float (B, 3, F, H, W) in [−1, 1]."""
    return torch.from_numpy(np.array(frames)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def _start_as_image_model(vae: nn.Module) -> None:
    """Residual branches start at zero (else reconstruction stays at 16–18 dB), and time starts as the newest frame.

    Causal kernels hold zeros for earlier frames and the temporal resamplers copy, so what single frames teach carries
    over to clips unchanged; random temporal weights would throw it away (docs/LOG.md).
    """
    for name, module in vae.named_modules():
        if not isinstance(module, (nn.Conv3d, nn.Conv2d)):
            continue
        with torch.no_grad():
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
                module.weight[:, :, :2] = 0
            if name.endswith("time_conv"):
                newest = torch.eye(module.in_channels).repeat(module.out_channels // module.in_channels, 1)
                module.weight[:, :, 2, 0, 0] = newest
                nn.init.zeros_(module.bias)
            if name.endswith(("conv2", "proj")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)


def _hidden(name: str, parameter: nn.Parameter) -> bool:
    outer = any(part in name for part in ("conv_in", "conv_out", "quant_conv"))
    return parameter.ndim >= 4 and not outer and min(parameter.shape[:2]) > 3


def _train(vae: Any, clips: Frames, stage: Stage, seed: int) -> dict[str, Tensor]:
    """The averaged weights after one stage."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    trained = nn.ModuleList([vae.post_quant_conv, vae.decoder]) if stage.decoder_only else vae
    optimizer = MatrixMuon(trained, _hidden, stage.muon_lr, 1e-3, stage.steps)
    average = averaged(trained, 0.995)
    for step in track(range(stage.steps), f"train the VAE: {stage.name}"):
        start = rng.integers(clips.shape[1] - stage.frames + 1, size=stage.batch)
        chosen = rng.integers(len(clips), size=stage.batch)
        x = to_input(np.stack([clips[c, s : s + stage.frames] for c, s in zip(chosen, start, strict=True)]))
        loss, mse = (decoder_loss if stage.decoder_only else vae_loss)(vae, x)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update_parameters(trained)
        if step % 100 == 0:
            print(f"vae {stage.name}, step {step:5d}: loss {loss.item():.4f}, PSNR {psnr(mse):.2f} dB", flush=True)
    trained.load_state_dict(average.module.state_dict())
    return dict(vae.state_dict())


def vae_loss(vae: Any, x: Tensor) -> tuple[Tensor, float]:
    """L1 + MSE, saturated pixels (the subject) weighted up, and a light KL; also the plain MSE on [−1, 1]."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    error = y - x
    weight = 1 + 2 * (x.amax(1, keepdim=True) - x.amin(1, keepdim=True)) / 2
    loss = (weight * (error.abs() + error.square())).mean() / weight.mean()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return loss + KL_WEIGHT * kl, float(error.detach().square().mean())


def decoder_loss(vae: Any, x: Tensor) -> tuple[Tensor, float]:
    """MSE with a little L1 on the decoded mode of the posterior, the encoder left alone; also the plain MSE."""
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
    error = vae.decode(z).sample - x
    mse = error.square().mean()
    return mse + 0.1 * error.abs().mean(), float(mse.detach())


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean square error on values in [−1, 1]."""
    return float(10 * np.log10(4 / mse))


@torch.no_grad()
def reconstruction_psnr(vae: Any, clips: Frames) -> float:
    """Median over clips of the PSNR of decode(encode(clip)), in dB; what a pipeline's picture can reach at best."""
    values = []
    for clip in clips:
        x = to_input(clip[None])
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(psnr(float((y - x).square().mean())))
    return float(np.median(values))


@torch.no_grad()
def _standardise(vae: Any, clips: Frames, sample: int = 256) -> None:
    """Write the latents' mean and deviation per channel into the config, where pipelines and trainers look for them."""
    picks = np.linspace(0, len(clips) - 1, min(sample, len(clips)), dtype=int)
    z = torch.cat([vae.encode(to_input(clips[i : i + 1])).latent_dist.mode() for i in picks])
    vae.register_to_config(
        latents_mean=[round(v, 4) for v in z.mean((0, 2, 3, 4)).tolist()],
        latents_std=[round(v, 4) for v in z.std((0, 2, 3, 4)).tolist()],
    )
