"""The norm of an update's gradient, limited where `--max_grad_norm` says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def limit(accelerator: Any, parameters: Sequence[nn.Parameter], most: float) -> Tensor | None:
    """Scale the gradients so that their common norm is at most `most`; 0 leaves them alone. Returns the norm before.

    None where nobody knows it: without a limit, in float16, gradients are still multiplied by the loss scale.
    """
    if most:
        norm: Tensor | None = accelerator.clip_grad_norm_(parameters, most)
        return norm
    if accelerator.scaler is not None:
        return None
    return torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
