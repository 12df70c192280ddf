"""The seam: the methods of musubi-tuner's trainer that the extension overrides or calls, under its own names.

From `training/trainer_base.py` (class NetworkTrainer) and `wan_train_network.py` (class WanNetworkTrainer) of
musubi-tuner v0.3.x. `HostTrainer` lists them in the order in which a training run calls them; a test compares the
parameter names with a checkout. Beside it: what the extension itself needs of its surroundings, a tracker and a
progress display.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass
class DiTOutput:
    """What `call_dit` returns (trainer_base.py, same name): prediction and target, both (B, C, F, H, W)."""

    pred: Tensor
    target: Tensor
    extra: dict[str, Any] = field(default_factory=dict)


class HostTrainer(Protocol):
    """A trainer with musubi-tuner's seam; the extension is mixed in front of one."""

    def handle_model_specific_args(self, args: Namespace) -> None:
        """Derive what the model needs from `args`, before anything is built."""

    def _build_dataset(self, args: Namespace) -> tuple[Any, Any, Any]:
        """The training data, the collator of the loader, and a shared value that holds the epoch, from 1."""

    def load_transformer(
        self,
        accelerator: Any,
        args: Namespace,
        dit_path: str,
        attn_mode: str,
        split_attn: bool,
        loading_device: str,
        dit_weight_dtype: torch.dtype | None,
    ) -> Any:
        """The frozen base transformer of one expert."""

    def extra_metadata(self, args: Namespace) -> dict[str, Any]:
        """Further `ss_*` entries for the metadata of saved adapters."""

    def on_train_start(self, args: Namespace, accelerator: Any, network: Any, transformer: Any, optimizer: Any) -> None:
        """Once, with everything prepared, before the first batch."""

    def process_batch(
        self,
        args: Namespace,
        accelerator: Any,
        transformer: Any,
        network: Any,
        batch: dict[str, Any],
        latents: Tensor,
        noise: Tensor,
        noise_scheduler: Any,
        dit_dtype: torch.dtype,
        network_dtype: torch.dtype,
        vae: Any,
        global_step: int,
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss and named scalars of one batch: the three methods below, in their order."""

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
        """(1 − t)·latents + t·noise (B, C, F, H, W), and 1000·t + 1 (B,)."""

    def call_dit(
        self,
        args: Namespace,
        accelerator: Any,
        transformer: Any,
        latents: Tensor,
        batch: dict[str, Any],
        noise: Tensor,
        noisy_model_input: Tensor,
        timesteps: Tensor,
        network_dtype: torch.dtype,
        **kwargs: Any,
    ) -> DiTOutput:
        """One forward pass; the target is the velocity noise − latents."""

    def compute_loss(
        self,
        args: Namespace,
        output: DiTOutput,
        timesteps: Tensor,
        noise_scheduler: Any,
        dit_dtype: torch.dtype,
        network_dtype: torch.dtype,
        global_step: int,
    ) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss of a forward pass, and named scalars to log."""

    def on_post_optimizer_step(
        self,
        args: Namespace,
        accelerator: Any,
        network: Any,
        transformer: Any,
        sync_gradients: bool,
        global_step: int,
    ) -> None:
        """After every inner step; `sync_gradients` says whether the weights changed, `global_step` counts from 0."""

    def extra_step_logs(self, args: Namespace, logs: dict[str, Any]) -> dict[str, Any]:
        """Further entries for the host's own log of a step."""

    def on_post_save(
        self,
        args: Namespace,
        accelerator: Any,
        network: Any,
        transformer: Any,
        ckpt_name: str,
        save_dtype: torch.dtype | None,
        metadata: dict[str, Any],
        force_sync_upload: bool,
    ) -> None:
        """After a checkpoint was written to `args.output_dir`."""


class Tracker(Protocol):
    """Where one run's settings, numbers and files go. Every method returns at once and never stops the training."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at a step."""

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Keep a file or folder with the run."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set or replace tags."""

    def flush(self) -> None:
        """Wait until what was said is kept: a state that is written next takes it for granted."""

    def close(self, status: Status = "FINISHED") -> None:
        """End the run."""


class Progress(Protocol):
    """How far a phase is, for whoever watches."""

    def update(self, step: int, total: int, loss: float) -> None:
        """`step` of `total` updates are done; `loss` is a moving average."""


class NoTracking:
    """The tracker of `--no_mlflow`: keeps nothing."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep nothing."""

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Keep nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Nothing to wait for."""

    def close(self, status: Status = "FINISHED") -> None:
        """Nothing to end."""


class NoProgress:
    """Shows nothing."""

    def update(self, step: int, total: int, loss: float) -> None:
        """Show nothing."""
