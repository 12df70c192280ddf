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

    Draws only from generators of its own: training with it is bit-identical to training without. Several processes
    share the batches among them and all know the result.
    """

    def __init__(self, holdout: OrbitDataset | None, timesteps: Sequence[float]) -> None:
        self.holdout, self.timesteps = holdout, tuple(timesteps)

    def __bool__(self) -> bool:
        return self.holdout is not None and len(self.holdout) > 0

    @torch.no_grad()
    def measure(
        self, trainer: HostTrainer, args: Namespace, accelerator: Any, network: nn.Module, transformer: Any
    ) -> dict[str, float]:
        """{"val/loss": mean, "val/loss_t450": loss at t = 0.45, …}; each clip weighs the same."""
        assert self.holdout is not None  # asked for by truth
        training = network.training
        network.eval()
        totals = torch.zeros(len(self.timesteps) + 1, dtype=torch.float64)  # the last counts clips
        for index in range(accelerator.process_index, len(self.holdout), accelerator.num_processes):
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
            totals[-1] += len(latents)
        network.train(training)
        if accelerator.num_processes > 1:
            totals = accelerator.reduce(totals.to(accelerator.device), reduction="sum").cpu()
        losses = (totals[:-1] / totals[-1]).tolist()
        named = {f"val/loss_t{round(1000 * t):03d}": loss for t, loss in zip(self.timesteps, losses, strict=True)}
        return {"val/loss": sum(losses) / len(losses), **named}


def fixed_noise(like: Tensor, seed: int) -> Tensor:
    """Standard normal noise of the shape of `like`, a function of shape and seed alone."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


class Patience:
    """Which validation was the best, and for how many there was none better (`--early_stop_patience`)."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.best: tuple[int, float] | None = None  # step and loss
        self.worse = 0

    def update(self, step: int, loss: float) -> bool:
        """Take note of a validation; True when it is the best so far."""
        if self.best is None or loss < self.best[1]:
            self.best, self.worse = (step, loss), 0
            return True
        self.worse += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether training should end."""
        return self.patience is not None and self.worse >= self.patience
