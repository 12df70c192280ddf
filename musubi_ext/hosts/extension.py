"""The extension: what we change in a musubi-tuner trainer, written once over its seam and mixed in front of a host.

    class PocketTrainer(OrbitExtension, PocketHost): ...

It brings the orbit data set, timesteps drawn inside the expert's range, the held-out validation loss, tracking, and
metadata that says which expert an adapter belongs to.
"""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from collections.abc import Mapping
from multiprocessing import Value
from statistics import fmean as mean
from typing import Any

import torch
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.hosts.checkpoints import VALIDATION
from musubi_ext.hosts.endings import DivergedError
from musubi_ext.hosts.seam import NoProgress, NoTracking, Progress, Tracker
from musubi_ext.hosts.validation import Validation
from musubi_ext.orbits.config import DatasetConfig
from musubi_ext.orbits.dataset import Batch, OrbitDataset
from musubi_ext.schedule.plan import Phase
from musubi_ext.schedule.timesteps import sample_timesteps

AVERAGE = 0.98  # decay of the moving average that a progress bar shows


class OrbitExtension:
    """Mixin over `seam.HostTrainer`. One object trains one phase."""

    def __init__(
        self,
        phase: Phase,
        data: DatasetConfig,
        tracker: Tracker | None = None,
        progress: Progress | None = None,
        run_metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.phase, self.data, self.run_metadata = phase, data, dict(run_metadata or {})
        self.tracker: Tracker = tracker or NoTracking()
        self.progress: Progress = progress or NoProgress()
        self.validations: list[tuple[int, dict[str, float]]] = []  # (updates done, losses)
        self._losses: list[float] = []  # of the batches since the last update of the weights
        self._times: list[float] = []  # their mean t
        self._average: float | None = None
        self._rate = 0.0

    def _build_dataset(self, args: Namespace) -> tuple[OrbitDataset, Any, Any]:
        """The training split, a collator that unwraps its ready batches, and the shared epoch."""
        training = OrbitDataset(self.data, split="train", seed=args.seed)
        holdout = OrbitDataset(self.data, split="holdout", seed=args.seed)
        if not len(training):
            raise UserError(f"{self.data.path}: expected clips to train on, found none outside the hold-out")
        self.validation = Validation(holdout, self.phase.validation_timesteps())
        self._fingerprint = training.fingerprint()
        return training, unwrap, Value("i", 0)

    def get_noisy_model_input_and_timesteps(
        self,
        args: Namespace,
        noise: Tensor,
        latents: Tensor,
        timesteps: list[float] | None,
        noise_scheduler: Any,
        device: torch.device,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Draw t in the phase's range by the truncated inverse CDF: ((1 − t)·latents + t·noise, 1000·t + 1).

        Upstream squeezes the density into the range, or leaves the range after 100 rejections.
        """
        if timesteps is not None:
            raise ValueError("bucketed timesteps (num_timestep_buckets) do not go together with an expert's range")
        t = sample_timesteps(
            args.timestep_sampling,
            len(latents),
            self.phase.low,
            self.phase.high,
            shift=args.discrete_flow_shift,
            sigmoid_scale=args.sigmoid_scale,
            logit_mean=args.logit_mean,
            logit_std=args.logit_std,
            latent_hw=(latents.shape[-2], latents.shape[-1]),
        )
        t = t.to(device)
        shaped = t.view(-1, *[1] * (latents.ndim - 1))
        return (1 - shaped) * latents + shaped * noise, 1000 * t + 1

    def compute_loss(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, float]]:
        """The host's loss, watched. Raises DivergedError when it is not finite."""
        host: Any = super()
        loss, metrics = host.compute_loss(*args, **kwargs)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"{self.phase.expert.value} expert: the loss is {value} (lower --learning_rate)")
        timesteps = kwargs["timesteps"] if "timesteps" in kwargs else args[2]
        self._losses.append(value)
        self._times.append((float(timesteps.mean()) - 1) / 1000)
        self._rate = float(self._optimizer.param_groups[0]["lr"])
        return loss, {**metrics, "timestep/mean": self._times[-1]}

    def extra_metadata(self, args: Namespace) -> dict[str, Any]:
        """The host's metadata, and which expert the adapter is for, its boundary, its range and its data."""
        host: Any = super()
        low, high = self.phase.low, self.phase.high
        ours = {
            "ss_expert": self.phase.expert.value,
            "ss_timestep_boundary": self.phase.boundary,
            "ss_min_timestep": round(1000 * low, 6),
            "ss_max_timestep": round(1000 * high, 6),
            "ss_dataset_fingerprint": self._fingerprint,
            "ss_condition": self.data.orbit.condition,
            VALIDATION: json.dumps([[step, losses["val/loss"]] for step, losses in self.validations]),
        }
        return {**host.extra_metadata(args), **ours, **self.run_metadata}

    def on_train_start(self, args: Namespace, accelerator: Any, network: Any, transformer: Any, optimizer: Any) -> None:
        """Validate before the first update: the loss of the base."""
        host: Any = super()
        host.on_train_start(args, accelerator, network, transformer, optimizer)
        self._optimizer = optimizer
        self._validate(args, accelerator, network, transformer, 0)
        self._since = time.perf_counter()

    def on_post_optimizer_step(
        self, args: Namespace, accelerator: Any, network: Any, transformer: Any, sync_gradients: bool, global_step: int
    ) -> None:
        """Track every update of the weights; validate every `validate_every_n_steps` and after the last."""
        host: Any = super()
        host.on_post_optimizer_step(args, accelerator, network, transformer, sync_gradients, global_step)
        if not sync_gradients:
            return
        step, loss, t = global_step + 1, mean(self._losses), mean(self._times)
        self._losses.clear()
        self._times.clear()
        self._average = loss if self._average is None else AVERAGE * self._average + (1 - AVERAGE) * loss
        seconds = time.perf_counter() - self._since
        self.tracker.log_metrics({"loss": loss, "lr": self._rate, "timestep/mean": t, "step_seconds": seconds}, step)
        self.progress.update(step, args.max_train_steps, self._average)
        every = args.validate_every_n_steps
        if step == args.max_train_steps or (every and step % every == 0):
            self._validate(args, accelerator, network, transformer, step)
        self._since = time.perf_counter()

    def extra_step_logs(self, args: Namespace, logs: dict[str, Any]) -> dict[str, Any]:
        """The host's entries, and the last validation losses."""
        host: Any = super()
        return {**host.extra_step_logs(args, logs), **(self.validations[-1][1] if self.validations else {})}

    def _validate(self, args: Namespace, accelerator: Any, network: Any, transformer: Any, step: int) -> None:
        if self.validation:
            trainer: Any = self
            losses = self.validation.measure(trainer, args, accelerator, network, transformer)
            self.validations.append((step, losses))
            self.tracker.log_metrics(losses, step)


def unwrap(batches: list[Batch]) -> Batch:
    """The one ready batch that a loader of batch size 1 hands to its collator."""
    return batches[0]
