"""Validation loss of one expert: held-out clips, fixed noise, fixed timesteps of the expert's own range."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from musubi_ext.hosts.seam import HostTrainer
from musubi_ext.orbits.dataset import OrbitDataset

NOISE_SEED = 20_240_229  # one noise per batch, the same in every run, so that losses compare between runs


class Validation:
    """Mean squared velocity error on the hold-out split at each of `timesteps` (t in [0, 1]).

    Draws only from generators of its own: training with it is bit-identical to training without.
    """

    def __init__(self, holdout: OrbitDataset, timesteps: Sequence[float]) -> None:
        self.holdout, self.timesteps = holdout, tuple(timesteps)

    def __bool__(self) -> bool:
        return len(self.holdout) > 0

    @torch.no_grad()
    def measure(
        self, trainer: HostTrainer, args: Namespace, accelerator: Any, network: nn.Module, transformer: Any
    ) -> dict[str, float]:
        """{"val/loss": mean, "val/loss_t450": loss at t = 0.45, …}; each clip weighs the same."""
        training = network.training
        network.eval()
        totals, clips = torch.zeros(len(self.timesteps), dtype=torch.float64), 0
        for index in range(len(self.holdout)):
            batch = self.holdout[index]
            noise = fixed_noise(batch["latents"], NOISE_SEED + index).to(accelerator.device)
            latents = batch["latents"].to(accelerator.device)
            for place, t in enumerate(self.timesteps):
                noisy, timesteps = (1 - t) * latents + t * noise, noise.new_full((len(noise),), 1000 * t + 1)
                output = trainer.call_dit(
                    args, accelerator, transformer, latents, batch, noise, noisy, timesteps, torch.float32
                )
                error = nn.functional.mse_loss(output.pred.float(), output.target.float())
                totals[place] += error.double().cpu() * len(latents)
            clips += len(latents)
        network.train(training)
        losses = (totals / clips).tolist()
        named = {f"val/loss_t{round(1000 * t):03d}": loss for t, loss in zip(self.timesteps, losses, strict=True)}
        return {"val/loss": sum(losses) / len(losses), **named}


def fixed_noise(like: Tensor, seed: int) -> Tensor:
    """Standard normal noise of the shape of `like`, a function of shape and seed alone."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
