"""musubi-tuner's own WanNetworkTrainer with the extension in front of it and our loop inside it.

Everything upstream prepares (precision, block swap, network module, optimizer, schedule, sampling) is upstream's.
What is ours: the data set, the timesteps, the loop that can be resumed, what is saved and when the trackers end.
"""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.hosts.checkpoints import FINISHED, last_name
from musubi_ext.hosts.disk import writing
from musubi_ext.hosts.extension import OrbitExtension
from musubi_ext.hosts.gradients import limit
from musubi_ext.hosts.jobs import Plan
from musubi_ext.hosts.loop import Run, TrainingLoop
from musubi_ext.hosts.musubi import metadata as host_metadata
from musubi_ext.hosts.musubi.frozen import frozen_modules_unwrapped
from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.hosts.musubi.logs import HostLog
from musubi_ext.hosts.musubi.pocket_task import TASK, PocketParts
from musubi_ext.hosts.musubi.residency import for_inference
from musubi_ext.hosts.state_policy import StatePolicy
from musubi_ext.storage import atomic_path

# What upstream raises for flags and files that it cannot use; after the first step they are defects.
REFUSALS = (AssertionError, AttributeError, ImportError, KeyError, OSError, TypeError, ValueError)
_log = logging.getLogger(__name__)


class MusubiHost(OrbitExtension):
    """Mixin over WanNetworkTrainer: `trainer_class` puts the two together. `args` is one phase's own namespace."""

    def train(self, args: Namespace) -> None:
        """Upstream's. Raises UserError for what it refuses before the first step, an unknown optimizer for one."""
        host: Any = super()
        self._training = False
        try:
            host.train(args)
        except REFUSALS as error:
            if self._training:
                raise
            _log.debug("musubi-tuner refused", exc_info=True)
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            raise UserError(f"musubi-tuner cannot train with these flags: {reason}") from error

    def _build_dataset(self, args: Namespace) -> tuple[Any, Any, Any]:
        """Ours where the dataset TOML has an `[orbit]` table; without one, upstream's own batches."""
        if self.data.orbit_given:
            return super()._build_dataset(args)
        upstream: Any = super(OrbitExtension, self)
        built: tuple[Any, Any, Any] = upstream._build_dataset(args)
        return built

    def _build_optimizer_and_dataloader(
        self, args: Namespace, accelerator: Any, network: Any, data: Any, collator: Any, transformer: Any
    ) -> tuple[Any, ...]:
        """Upstream's; our data set brings its own order, a function of seed and epoch, and is not shuffled again."""
        host: Any = super()
        *rest, loader = host._build_optimizer_and_dataloader(args, accelerator, network, data, collator, transformer)
        if self.data.orbit_given:
            workers = min(args.max_data_loader_n_workers, os.cpu_count() or 1) if not data.in_memory else 0
            loader = torch.utils.data.DataLoader(
                data,
                batch_size=1,
                collate_fn=collator,
                num_workers=workers,
                persistent_workers=bool(workers and args.persistent_data_loader_workers),
            )
        return (*rest, loader)

    def _prepare_with_accelerator(self, args: Namespace, accelerator: Any, *parts: Any) -> tuple[Any, ...]:
        """Upstream's, where a CPU's processes can train a frozen transformer too."""
        host: Any = super()
        with frozen_modules_unwrapped(accelerator):
            prepared: tuple[Any, ...] = host._prepare_with_accelerator(args, accelerator, *parts)
        return prepared

    def _register_hooks_and_resume(self, args: Namespace, accelerator: Any, network: Any) -> None:
        """Nothing: states are written and read by the loop, exactly (`hosts/states.py`)."""

    def _run_training_loop(
        self,
        args: Namespace,
        accelerator: Any,
        session_id: int,
        training_started_at: float,
        train_dataset_group: Any,
        train_dataloader: Any,
        current_epoch: Any,
        transformer: Any,
        network: Any,
        training_model: Any,
        optimizer: Any,
        optimizer_name: str,
        optimizer_args: str,
        optimizer_train_fn: Callable[[], None],
        optimizer_eval_fn: Callable[[], None],
        lr_scheduler: Any,
        lr_descriptions: Any,
        vae: Any,
        sample_parameters: Any,
        dit_dtype: torch.dtype,
        network_dtype: torch.dtype,
    ) -> None:
        """Our loop in the place of upstream's, over everything upstream has prepared."""
        self._training = True
        run = Run(
            accelerator=accelerator,
            loader=train_dataloader,
            epoch=current_epoch,
            network=network,
            transformer=transformer,
            optimizer=optimizer,
            schedule=lr_scheduler,
            noise_scheduler=host_metadata.noise_scheduler(args),
            vae=vae,
            dit_dtype=dit_dtype,
            network_dtype=network_dtype,
            to_training=optimizer_train_fn,
            to_evaluation=optimizer_eval_fn,
        )
        self.sample_parameters = sample_parameters
        self._save_dtype = host_metadata.save_dtype(args, dit_dtype)
        self._session = {"ss_session_id": session_id, "ss_training_started_at": training_started_at}
        optimizer_text = f"{optimizer_name}({optimizer_args})" if optimizer_args else optimizer_name
        architecture = str(getattr(self, "architecture_full_name"))  # noqa: B009 - upstream's, unknown to mypy
        self._metadata = host_metadata.of_run(
            args, train_dataset_group, len(train_dataloader), optimizer_text, architecture
        )
        self._host_log = HostLog(self, args, run, lr_descriptions)
        policy = self.policy or StatePolicy(args, {})
        TrainingLoop(self, args, run, policy).train(policy.start())
        optimizer_eval_fn()
        self._metadata[FINISHED] = "true"
        if accelerator.is_main_process:
            self.save(args, run, last_name(args.output_name))
            policy.finished()
        self._host_log.close()
        accelerator.wait_for_everyone()
        accelerator.free_memory()

    def epoch_begins(self, args: Namespace, run: Run) -> None:
        """Upstream's per-epoch call of the network."""
        run.accelerator.unwrap_model(run.network).on_epoch_start(run.transformer)

    def batch_begins(self, args: Namespace, run: Run, latents: Tensor) -> Tensor:
        """Upstream's per-step call of the network, and its scaling of latents."""
        host: Any = self
        run.accelerator.unwrap_model(run.network).on_step_start()
        scaled: Tensor = host.scale_shift_latents(latents)
        return scaled

    def gradients_ready(self, args: Namespace, run: Run) -> None:
        """Average over the processes by hand, as upstream does since LoRA runs past DDP's forward; then clip."""
        accelerator = run.accelerator
        if accelerator.num_processes > 1:
            for parameter in run.network.parameters():
                if parameter.grad is not None:
                    parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")
        network = accelerator.unwrap_model(run.network)
        self.gradients_measured(limit(accelerator, list(network.get_trainable_params()), args.max_grad_norm))

    def weights_updated(self, args: Namespace, run: Run) -> None:
        """Limit the weights' norms, sample, then what the extension does."""
        self._host_log.limit_norms()
        self._sample(args, run, None)
        super().weights_updated(args, run)

    def batch_done(self, args: Namespace, run: Run, loss: Tensor, metrics: dict[str, float]) -> None:
        """Upstream's own log of a step, where a tracker of its own was asked for."""
        self._host_log.step(loss, metrics)

    def epoch_done(self, args: Namespace, run: Run) -> None:
        """Upstream's log of an epoch and its samples, then what the extension does."""
        self._host_log.epoch()
        self._sample(args, run, run.position.epoch)
        super().epoch_done(args, run)

    def on_train_start(self, args: Namespace, accelerator: Any, network: Any, transformer: Any, optimizer: Any) -> None:
        """The extension's, and upstream's samples of the untrained network with `--sample_at_first`."""
        super().on_train_start(args, accelerator, network, transformer, optimizer)
        self._host_log.open(resumed=self._resumed)
        if not self._resumed:
            self._sample(args, self._host_log.run, 0)

    def _validate(self, args: Namespace, accelerator: Any, network: Any, transformer: Any, step: int) -> bool:
        """The extension's, without dropout, and with swapped blocks left where the next training step expects them."""
        if not self.validation:
            return False
        with for_inference(accelerator.unwrap_model(transformer)):
            return super()._validate(args, accelerator, network, transformer, step)

    def state(self) -> dict[str, Any]:
        """The extension's, upstream's average loss, and the session that the metadata name."""
        return {**super().state(), "host_log": self._host_log.state(), "session": self._session}

    def load_state(self, state: dict[str, Any], args: Namespace) -> None:
        """Take up what `state` returned."""
        super().load_state(state, args)
        self._host_log.load_state(state["host_log"])
        self._session = state["session"]

    def save(self, args: Namespace, run: Run, name: str) -> Path:
        """Write the adapter by upstream's own network module, whole or not at all."""
        host: Any = self
        final = FINISHED in self._metadata
        position = {"ss_steps": run.position.step, "ss_epoch": run.position.epoch}
        ours = {**self._metadata, **self._session, **host.extra_metadata(args), **position}
        metadata = host_metadata.of_file(args, self.phase, {key: str(value) for key, value in ours.items()})
        path = Path(args.output_dir) / name
        with writing(path), atomic_path(path) as temporary:
            run.accelerator.unwrap_model(run.network).save_weights(str(temporary), self._save_dtype, metadata)
        if args.huggingface_repo_id is not None:
            host_metadata.upload(args, path, force=final)
        host.on_post_save(args, run.accelerator, run.network, run.transformer, name, self._save_dtype, metadata, final)
        return path

    def _sample(self, args: Namespace, run: Run, epoch: int | None) -> None:
        """Upstream's own samples, when they are due: of one expert without the other, unlike previews."""
        host: Any = self
        if not host_metadata.sample_is_due(args, run.position.step, epoch):
            return
        seats = (run.accelerator, args, epoch, run.position.step, run.vae, run.transformer)
        host.on_before_sample_images(*seats, run.network, self.sample_parameters, run.dit_dtype)
        try:
            host.sample_images(*seats, self.sample_parameters, run.dit_dtype)
        finally:
            host.on_after_sample_images(*seats, run.network, self.sample_parameters, run.dit_dtype)
        self._log.restart()


def trainer_class(task: str) -> type:
    """MusubiHost over the WanNetworkTrainer of the host that is installed; for the pocket task with its own parts."""
    upstream = import_host().WanNetworkTrainer
    bases = (MusubiHost, PocketParts, upstream) if task == TASK else (MusubiHost, upstream)
    return type("MusubiTrainer", bases, {"__doc__": "The extension inside musubi-tuner."})


def show_timesteps(plan: Plan) -> None:
    """`--show_timesteps`: upstream's picture, of what each expert would draw here."""
    for job in plan.jobs:
        print(f"{job.expert.value}-noise expert:")
        trainer = trainer_class(job.args.task)(job.phase, job.data)
        trainer._begin(job.args)
        trainer.show_timesteps(job.args)
