"""Every forward pass of musubi-tuner's own transformer, whoever asks for it: what reached it, with whose weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.schedule.experts import Expert

SHOWS = "patch_embedding.weight"  # no adapter touches it


@dataclass(frozen=True)
class Pass:
    """One forward pass."""

    expert: Expert  # whose weights the transformer held
    t: float  # noise level in [0, 1]; the model is given 1000·t + 1 in training, 1000·t in sampling
    trained: bool  # with gradients: no validation and no sampling
    condition: Tensor | None  # (20, F, h, w) of the first clip


@contextmanager
def watched(files: Mapping[Expert, Path], before: Callable[[Pass], None] | None = None) -> Iterator[list[Pass]]:
    """The passes within the block, `files` being the two experts; `before` is called with each before it runs."""
    model: Any = import_host_module("musubi_tuner.wan.modules.model").WanModel
    forward, passes = model.forward, list[Pass]()
    weights = {expert: load_file(path)[SHOWS] for expert, path in files.items()}

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        held = self.get_parameter(SHOWS)
        (expert,) = (expert for expert, tensor in weights.items() if torch.equal(tensor, held))
        trained, condition = torch.is_grad_enabled(), kwargs.get("y")
        given = None if condition is None else condition[0].detach().clone()
        t = (float(kwargs["t"][0]) - trained) / 1000
        passes.append(Pass(expert, t, trained, given))
        if before is not None:
            before(passes[-1])
        return forward(self, *args, **kwargs)

    with patch.object(model, "forward", noted):
        yield passes
