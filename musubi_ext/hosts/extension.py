"""The extension: what we change in a musubi-tuner trainer, written once over its seam and mixed in front of a host.

    class PocketTrainer(OrbitExtension, PocketHost): ...

It brings the orbit data set, timesteps drawn inside the expert's range, the held-out validation loss with early
stopping, losses by frequency band, tracking, and metadata that says which expert an adapter belongs to.
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Callable, Mapping
from multiprocessing import Value
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.hosts.checkpoints import BEST, VALIDATION, best_name
from musubi_ext.hosts.endings import DivergedError
from musubi_ext.hosts.loop import Run
from musubi_ext.hosts.seam import NoProgress, NoTracking, Progress, Tracker
from musubi_ext.hosts.state_policy import StatePolicy
from musubi_ext.hosts.step_log import StepLog
from musubi_ext.hosts.validation import Patience, Validation
from musubi_ext.orbits.config import DatasetConfig
from musubi_ext.orbits.dataset import Batch, OrbitDataset
from musubi_ext.schedule.bands import band_losses, emphasised_loss, parse_emphasis
from musubi_ext.schedule.experts import find_task
from musubi_ext.schedule.plan import Phase
from musubi_ext.schedule.strata import Strata
from musubi_ext.schedule.timesteps import at_quantiles, density

Preview = Callable[[Any, Namespace, Run], None]  # (trainer, …): makes videos of both experts as they stand


class OrbitExtension:
    """Mixin over `seam.HostTrainer`. One object trains one phase."""

    def __init__(
        self,
        phase: Phase,
        data: DatasetConfig,
        tracker: Tracker | None = None,
        progress: Progress | None = None,
        run_metadata: Mapping[str, str] | None = None,
        preview: Preview | None = None,
        policy: StatePolicy | None = None,
    ) -> None:
        super().__init__()
        self.phase, self.data, self.run_metadata = phase, data, dict(run_metadata or {})
        self.tracker: Tracker = tracker or NoTracking()
        self.progress: Progress = progress or NoProgress()
        self.preview, self.policy = preview, policy
        self.stop = False
        self.validations: list[tuple[int, dict[str, float]]] = []  # (updates done, losses)
        self._log = StepLog()
        self._resumed = False

    def _build_dataset(self, args: Namespace) -> tuple[OrbitDataset, Any, Any]:
        """The training split, a collator that unwraps its ready batches, and the shared epoch."""
        training = self._split("train", args)
        if not len(training):
            raise UserError(f"{self.data.path}: expected clips to train on, found none outside the hold-out")
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

        `timesteps` are quantiles, from a data set of upstream's with `--num_timestep_buckets`. Upstream squeezes the
        density into the range, or leaves the range after 1000 rejections.
        """
        law = density(
            args.timestep_sampling,
            shift=args.discrete_flow_shift,
            sigmoid_scale=args.sigmoid_scale,
            logit_mean=args.logit_mean,
            logit_std=args.logit_std,
            latent_hw=(latents.shape[-2], latents.shape[-1]),
        )
        t = at_quantiles(law, self._quantiles(timesteps, len(latents)), self.phase.low, self.phase.high).to(device)
        shaped = t.view(-1, *[1] * (latents.ndim - 1))
        return (1 - shaped) * latents + shaped * noise, 1000 * t + 1

    def compute_loss(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, float]]:
        """The host's loss, watched, or with `--band_emphasis` ours. Raises DivergedError when it is not finite."""
        host: Any = super()
        loss, metrics = host.compute_loss(*args, **kwargs)
        flags, output, timesteps = args[:3]
        error = output.pred.float() - output.target.float()
        if flags.band_emphasis:
            loss = emphasised_loss(error, parse_emphasis(flags.band_emphasis))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"{self.phase.expert.value} expert: the loss is {value} (lower --learning_rate)")
        t = (float(timesteps.float().mean()) - 1) / 1000
        self._log.add(value, t, {} if flags.no_bands else band_losses(error.detach()), len(timesteps))
        self._rate = float(self._optimizer.param_groups[0]["lr"])
        return loss, {**metrics, "timestep/mean": t}

    def extra_metadata(self, args: Namespace) -> dict[str, Any]:
        """The host's metadata, and which expert the adapter is for, its boundary, its range and its data."""
        host: Any = super()
        low, high = self.phase.low, self.phase.high
        ours = {
            "ss_expert": self.phase.expert.value,
            "ss_timestep_boundary": self.phase.boundary,
            "ss_min_timestep": round(1000 * low, 6),
            "ss_max_timestep": round(1000 * high, 6),
            "ss_condition": self.data.orbit.condition,
            VALIDATION: json.dumps([[step, losses["val/loss"]] for step, losses in self.validations]),
        }
        if self._patience.best is not None:
            ours[BEST] = json.dumps(self._patience.best)
        return {**host.extra_metadata(args), **ours, **self.run_metadata}

    def on_train_start(self, args: Namespace, accelerator: Any, network: Any, transformer: Any, optimizer: Any) -> None:
        """Prepare the validation; in a new run, validate before the first update: the loss of the base."""
        host: Any = super()
        host.on_train_start(args, accelerator, network, transformer, optimizer)
        self._optimizer = optimizer
        if not self._resumed:
            self._begin(args)
            if accelerator.num_processes > 1:  # upstream seeds every process alike, and all draw the same noise
                torch.manual_seed(args.seed + accelerator.process_index)
            self._validate(args, accelerator, network, transformer, 0)
        self._log.restart()

    def on_post_optimizer_step(
        self, args: Namespace, accelerator: Any, network: Any, transformer: Any, sync_gradients: bool, global_step: int
    ) -> None:
        """Track every update of the weights."""
        host: Any = super()
        host.on_post_optimizer_step(args, accelerator, network, transformer, sync_gradients, global_step)
        if sync_gradients:
            self.tracker.log_metrics(self._log.update(self._rate), global_step + 1)
            self.progress.update(global_step + 1, args.max_train_steps, self._log.average or 0.0)

    def gradients_measured(self, norm: Tensor | None) -> None:
        """Note the norm of the gradient that the weights are updated by."""
        if norm is not None:
            self._log.gradient(norm)

    def weights_updated(self, args: Namespace, run: Run) -> None:
        """Validate every `validate_every_n_steps` and after the last update; keep the best adapter; stop in time."""
        step, every = run.position.step, args.validate_every_n_steps
        if self.validation and (step == args.max_train_steps or (every and step % every == 0)):
            best = self._validate(args, run.accelerator, run.network, run.transformer, step)
            if best and step < args.max_train_steps:  # the last one is saved anyway
                self._keep_best(args, run)
            self.stop = self._patience.exhausted
            self._log.restart()

    def epoch_done(self, args: Namespace, run: Run) -> None:
        """Make previews every `preview_every_n_epochs`."""
        every = args.preview_every_n_epochs
        if self.preview is not None and every and run.position.epoch % every == 0:
            self.preview(self, args, run)
            self._log.restart()

    def extra_step_logs(self, args: Namespace, logs: dict[str, Any]) -> dict[str, Any]:
        """The host's entries, and the last validation losses."""
        host: Any = super()
        return {**host.extra_step_logs(args, logs), **(self.validations[-1][1] if self.validations else {})}

    def state(self) -> dict[str, Any]:
        """What a resumed training must know, as JSON."""
        patience = {"best": self._patience.best, "worse": self._patience.worse}
        return {
            "validations": self.validations,
            "patience": patience,
            "log": self._log.state(),
            "stop": self.stop,
            "strata": self._strata.state() if self._strata else None,
        }

    def load_state(self, state: dict[str, Any], args: Namespace) -> None:
        """Take up what `state` returned."""
        self._begin(args)
        self._resumed = True
        self.validations = [(step, losses) for step, losses in state["validations"]]
        best = state["patience"]["best"]
        self._patience.best, self._patience.worse = best and (best[0], best[1]), state["patience"]["worse"]
        self._log.load_state(state["log"])
        if self._strata:
            self._strata.load_state(state["strata"])
        self.stop = state["stop"]

    def _quantiles(self, given: list[float] | None, count: int) -> Tensor:
        if given is not None:
            return torch.tensor(given, dtype=torch.float64)
        return self._strata.draw(count) if self._strata else torch.rand(count, dtype=torch.float64)

    def _split(self, split: str, args: Namespace) -> OrbitDataset:
        return OrbitDataset(self.data, split=split, seed=args.seed, i2v=find_task(args.task).i2v)

    def _begin(self, args: Namespace) -> None:
        holdout = self._split("holdout", args) if self.data.orbit_given else None
        self.validation = Validation(holdout, self.phase.validation_timesteps())
        self._patience = Patience(args.early_stop_patience)
        buckets = getattr(args, "num_timestep_buckets", None) or 0  # the pocket host refuses the flag
        self._strata = Strata(buckets) if buckets > 1 else None

    def _validate(self, args: Namespace, accelerator: Any, network: Any, transformer: Any, step: int) -> bool:
        """Whether this is the best validation so far."""
        if not self.validation:
            return False
        trainer: Any = self
        losses = self.validation.measure(trainer, args, accelerator, network, transformer)
        self.validations.append((step, losses))
        self.tracker.log_metrics(losses, step)
        return self._patience.update(step, losses["val/loss"])

    def _keep_best(self, args: Namespace, run: Run) -> None:
        trainer: Any = self
        if run.accelerator.is_main_process:
            path: Path = trainer.save(args, run, best_name(args.output_name))
            self.tracker.set_tags({"best_step": run.position.step, "best_adapter": path.name})


def unwrap(batches: list[Batch]) -> Batch:
    """The one ready batch that a loader of batch size 1 hands to its collator."""
    return batches[0]
