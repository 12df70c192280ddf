"""Train the pocket's causal video VAE: single frames first, then whole clips of 17 frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from musubi_ext.pocket.config import Size, build_vae
from musubi_ext.pocket.optim import MatrixMuon, averaged
from musubi_ext.storage import atomic_path
from musubi_ext.video import Frames

KL_WEIGHT = 2e-4


def train_vae(clips: Frames, size: Size, folder: Path, image_steps: int, clip_steps: int, seed: int = 0) -> nn.Module:
    """Both stages from nothing; each stage's result is kept in `folder` and not trained again. Returns the VAE."""
    torch.manual_seed(seed)
    vae = build_vae(size)
    _quiet_residuals(vae)
    _stage(vae, clips, folder / "vae_images.pt", image_steps, batch=16, frames=1, muon_lr=5e-3, seed=seed)
    _stage(vae, clips, folder / "vae_clips.pt", clip_steps, batch=2, frames=clips.shape[1], muon_lr=4e-3, seed=seed + 1)
    _standardise(vae, clips)
    return vae


def to_input(frames: np.ndarray) -> Tensor:
    """uint8 (B, F, H, W, 3) → float (B, 3, F, H, W) in [−1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def _quiet_residuals(vae: nn.Module) -> None:
    """Residual branches start at zero: without it the reconstruction stays at 16–18 dB."""
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "proj")) and isinstance(module, (nn.Conv3d, nn.Conv2d)):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _hidden(name: str, parameter: nn.Parameter) -> bool:
    outer = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out", "quant_conv")
    return parameter.ndim >= 4 and parameter.shape[0] > 3 and not name.startswith(outer) and min(parameter.shape[:2]) > 3


def _stage(vae: nn.Module, clips: Frames, done: Path, steps: int, batch: int, frames: int, muon_lr: float, seed: int) -> None:
    if done.exists():
        vae.load_state_dict(torch.load(done, weights_only=True))
        return
    rng = np.random.default_rng(seed)
    optimizer = MatrixMuon(vae, _hidden, muon_lr, 1e-3, steps)
    average = averaged(vae, 0.995)
    for step in track(range(steps), f"train the VAE on {frames}-frame clips"):
        start = rng.integers(clips.shape[1] - frames + 1, size=batch)
        chosen = rng.integers(len(clips), size=batch)
        x = to_input(np.stack([clips[c, s : s + frames] for c, s in zip(chosen, start, strict=True)]))
        loss, mse = vae_loss(vae, x)
        loss.backward()
        optimizer.step()
        average.update_parameters(vae)
        if step % 100 == 0:
            print(f"vae {frames:2d} frames, step {step:5d}: loss {loss.item():.4f}, PSNR {psnr(mse):.2f} dB", flush=True)
    vae.load_state_dict(average.module.state_dict())
    with atomic_path(done) as temporary:
        torch.save(vae.state_dict(), temporary)


def vae_loss(vae: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    """L1 + MSE, saturated pixels (the subject) weighted up, and a light KL; also the plain MSE on [−1, 1]."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    error = y - x
    weight = 1 + 2 * (x.amax(1, keepdim=True) - x.amin(1, keepdim=True)) / 2
    loss = (weight * (error.abs() + error.square())).mean() / weight.mean()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return loss + KL_WEIGHT * kl, float(error.detach().square().mean())


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean square error on values in [−1, 1]."""
    return float(10 * np.log10(4 / mse))


@torch.no_grad()
def reconstruction_psnr(vae: nn.Module, clips: Frames) -> float:
    """Median over clips of the PSNR of decode(encode(clip)), in dB; what a pipeline's picture can reach at best."""
    values = []
    for clip in clips:
        x = to_input(clip[None])
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(psnr(float((y - x).square().mean())))
    return float(np.median(values))


@torch.no_grad()
def _standardise(vae: nn.Module, clips: Frames, sample: int = 256) -> None:
    """Write the latents' mean and deviation per channel into the config, where pipelines and trainers look for them."""
    picks = np.linspace(0, len(clips) - 1, min(sample, len(clips)), dtype=int)
    z = torch.cat([vae.encode(to_input(clips[i : i + 1])).latent_dist.mode() for i in picks])
    vae.register_to_config(
        latents_mean=[round(v, 4) for v in z.mean((0, 2, 3, 4)).tolist()],
        latents_std=[round(v, 4) for v in z.std((0, 2, 3, 4)).tolist()],
    )
