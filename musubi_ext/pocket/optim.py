"""What both trainings of the pocket share: Muon on matrices, AdamW elsewhere, cosine decay, weight averaging."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MatrixMuon:
    """`torch.optim.Muon` on hidden matrices and on convolutions seen as matrices (out, in·kernel); AdamW on the rest.

    On the pocket VAE this reaches in 120 s what AdamW alone reaches in several times as long (docs/LOG.md).
    """

    def __init__(
        self, model: nn.Module, hidden: Callable[[str, nn.Parameter], bool], muon_lr: float, adam_lr: float, steps: int
    ) -> None:
        matrices = [p for name, p in model.named_parameters() if hidden(name, p)]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.model = model
        self.matrices = matrices
        # a flat view shares its convolution's memory, so Muon's in-place step moves the convolution itself
        self.flat = [nn.Parameter(p.detach().view(len(p), -1)) for p in matrices]
        self.optimizers = (
            torch.optim.Muon(self.flat, lr=muon_lr, weight_decay=0.0),
            torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps))
            for optimizer in self.optimizers
        ]

    def step(self, max_norm: float = 1.0) -> None:
        """Clip, step both optimizers and their schedules, clear gradients."""
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        for flat, parameter in zip(self.flat, self.matrices, strict=True):
            flat.grad = None if parameter.grad is None else parameter.grad.view_as(flat)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
        self.model.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """States of both optimizers and both schedules, to go on from."""
        return [part.state_dict() for part in self._parts()]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from `state_dict`."""
        for part, state in zip(self._parts(), states, strict=True):
            part.load_state_dict(state)

    def _parts(self) -> list[Any]:
        return [*self.optimizers, *self.schedules]


def cosine(step: int, steps: int, warmup: int = 50, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights; `update_parameters(model)` after every step."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
