"""The training loop of both hosts: musubi-tuner's, step by step (trainer_base.py `_run_training_loop`), but resumable.

Upstream's counts from 0 after a resume, trains the full count again and overwrites its checkpoints; its loop cannot be
entered in the middle. This one makes the same draws in the same order, so that an uninterrupted run gives upstream's
adapter bit for bit, and one that was killed gives that of the uninterrupted run.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from musubi_ext import rng
from musubi_ext.hosts.checkpoints import epoch_name, step_name
from musubi_ext.hosts.seam import Tracker
from musubi_ext.hosts.state_policy import StatePolicy
from musubi_ext.hosts.states import Position, Snapshot, State

Batch = dict[str, Any]


@dataclass
class Run:
    """What a host has prepared for one phase, and how far the phase is."""

    accelerator: Any
    loader: Any
    epoch: Any  # shared with the workers of the loader: the epoch under way, from 1
    network: Any
    transformer: Any
    optimizer: Any
    schedule: Any
    noise_scheduler: Any = None
    vae: Any = None
    dit_dtype: torch.dtype = torch.float32
    network_dtype: torch.dtype = torch.float32
    to_training: Callable[[], None] = field(default=lambda: None)  # schedule-free optimizers have two modes
    to_evaluation: Callable[[], None] = field(default=lambda: None)
    position: Position = field(default_factory=Position)
    resumed: bool = False

    @property
    def adapter(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, alive."""
        named = self.accelerator.unwrap_model(self.network).named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}


class LoopTrainer(Protocol):
    """What the loop asks of a trainer beside the seam; `hosts/extension.py` and the hosts bring it."""

    stop: bool  # set when nothing is gained by going on
    tracker: Tracker

    def state(self) -> dict[str, Any]: ...  # what it must remember, as JSON
    def load_state(self, state: dict[str, Any], args: Namespace) -> None: ...
    def epoch_begins(self, args: Namespace, run: Run) -> None: ...
    def batch_begins(self, args: Namespace, run: Run, latents: Tensor) -> Tensor: ...
    def gradients_ready(self, args: Namespace, run: Run) -> None: ...
    def weights_updated(self, args: Namespace, run: Run) -> None: ...
    def batch_done(self, args: Namespace, run: Run, loss: Tensor, metrics: dict[str, float]) -> None: ...
    def epoch_done(self, args: Namespace, run: Run) -> None: ...
    def save(self, args: Namespace, run: Run, name: str) -> Path: ...


class TrainingLoop:
    """Trains one phase. `trainer` has the seam and `LoopTrainer`; `policy` says when states are written and kept."""

    def __init__(self, trainer: Any, args: Namespace, run: Run, policy: StatePolicy) -> None:
        self.trainer, self.args, self.run, self.policy = trainer, args, run, policy
        self.updates_per_epoch = math.ceil(len(run.loader) / args.gradient_accumulation_steps)
        self.epochs = math.ceil(args.max_train_steps / self.updates_per_epoch)
        self._epoch_start: dict[str, Any] = {}
        self._now: dict[str, Any] | None = None  # generators to go on with, after the batches that were done

    def train(self, state: State | None) -> None:
        """From `state`, or from the beginning, to the last update. The finished adapter is not saved here."""
        if state is not None:
            self._load(state)
        trainer, args, run = self.trainer, self.args, self.run
        trainer.on_train_start(args, run.accelerator, run.network, run.transformer, run.optimizer)
        run.to_training()
        if self._over() and run.position.batch:
            self._end_last_epoch()
        while run.position.epoch < self.epochs and not self._over():
            self._epoch()
        trainer.tracker.flush()  # the finished adapter, which the host writes now, is never trained again

    def _end_last_epoch(self) -> None:
        """The state is of the last update: what follows in its epoch was still to be done."""
        self.run.epoch.value = self.run.position.epoch + 1
        if self._now is not None:
            rng.restore(self._now)
            self._now = None
        self._end_epoch()

    def _over(self) -> bool:
        return self.run.position.step >= self.args.max_train_steps or bool(self.trainer.stop)

    def _epoch(self) -> None:
        run, trainer = self.run, self.trainer
        run.epoch.value = run.position.epoch + 1
        run.loader.set_epoch(run.position.epoch + 1)  # accelerate passes it on to a data set that wants it
        trainer.epoch_begins(self.args, run)
        for batch in self._batches():
            self._batch(batch)
            if self._over():
                break
        self._end_epoch()

    def _batches(self) -> Iterator[Batch]:
        """What is left of the epoch. Batches that were done are drawn again and dropped: the order is then the same."""
        done = self.run.position.batch
        if self._now is None:
            self._epoch_start = rng.capture()
        else:
            rng.restore(self._epoch_start)
        batches = iter(self.run.loader)
        for _ in range(done):
            next(batches)
        if self._now is not None:
            rng.restore(self._now)
            self._now = None
        yield from batches

    def _batch(self, batch: Batch) -> None:
        trainer, args, run = self.trainer, self.args, self.run
        with run.accelerator.accumulate(run.network):
            latents = trainer.batch_begins(args, run, batch["latents"])
            noise = torch.randn_like(latents)
            loss, metrics = trainer.process_batch(
                args,
                run.accelerator,
                run.transformer,
                run.network,
                batch,
                latents,
                noise,
                run.noise_scheduler,
                run.dit_dtype,
                run.network_dtype,
                run.vae,
                run.position.step,
            )
            run.accelerator.backward(loss)
            updated = bool(run.accelerator.sync_gradients)
            if updated:
                trainer.gradients_ready(args, run)
            run.optimizer.step()
            run.schedule.step()
            run.optimizer.zero_grad(set_to_none=True)
            trainer.on_post_optimizer_step(
                args, run.accelerator, run.network, run.transformer, updated, run.position.step
            )
        step, epoch, done = run.position.step + updated, run.position.epoch, run.position.batch + 1
        run.position = Position(step, epoch, done)
        saved = updated and self._save_by_step()
        trainer.batch_done(args, run, loss, metrics)
        if updated and self.policy.due_by_step(step, saved):
            self._write_state(f"step{step:08d}")

    def _save_by_step(self) -> bool:
        args, run, step = self.args, self.run, self.run.position.step
        self.trainer.weights_updated(args, run)
        if not args.save_every_n_steps or step % args.save_every_n_steps:
            return False
        with self._evaluating():
            self._save(step_name(args.output_name, step))
        if args.save_last_n_steps is not None:  # the one that has just left the window (get_remove_step_no)
            oldest = step - args.save_last_n_steps - 1
            self._drop(step_name(args.output_name, oldest - oldest % args.save_every_n_steps))
        return True

    def _end_epoch(self) -> None:
        args, run = self.args, self.run
        epoch = run.position.epoch + 1
        run.accelerator.wait_for_everyone()
        run.position = Position(run.position.step, epoch, 0)
        every = args.save_every_n_epochs
        saved = bool(every) and epoch % every == 0 and epoch < self.epochs and not self._over()
        with self._evaluating():
            if saved:
                self._save(epoch_name(args.output_name, epoch))
                if args.save_last_n_epochs is not None:
                    self._drop(epoch_name(args.output_name, epoch - every * args.save_last_n_epochs))
            self.trainer.epoch_done(args, run)
        if self.policy.due_by_epoch(epoch, saved, last=self._over() or epoch == self.epochs):
            self._epoch_start = rng.capture()
            self._write_state(f"{epoch:06d}")

    def _evaluating(self) -> Any:
        return _Mode(self.run)

    def _save(self, name: str) -> None:
        if self.run.accelerator.is_main_process:
            self.trainer.save(self.args, self.run, name)

    def _drop(self, name: str) -> None:
        if self.run.accelerator.is_main_process:
            (Path(self.args.output_dir) / name).unlink(missing_ok=True)

    def _write_state(self, label: str) -> None:
        run = self.run
        kept: dict[str, Any] = {"optimizer": run.optimizer.state_dict()}
        if hasattr(run.schedule, "state_dict"):  # upstream's stand-in for schedule-free optimizers has nothing to keep
            kept["schedule"] = run.schedule.state_dict()
        if run.accelerator.scaler is not None:
            kept["scaler"] = run.accelerator.scaler.state_dict()
        self.trainer.tracker.flush()  # what is not kept now is not told again after a kill
        extra = {"accumulated": run.accelerator.step, "trainer": self.trainer.state()}
        snapshot = Snapshot(run.position, run.adapter, kept, extra, self._epoch_start)
        self.policy.write(label, snapshot, run.accelerator)

    def _load(self, state: State) -> None:
        run = self.run
        _copy(state.tensors(), run.adapter)
        kept, generators = state.optimizer(), state.generators(run.accelerator.process_index)
        run.optimizer.load_state_dict(kept["optimizer"])
        if "schedule" in kept:
            run.schedule.load_state_dict(kept["schedule"])
        if run.accelerator.scaler is not None:
            run.accelerator.scaler.load_state_dict(kept["scaler"])
        run.accelerator.step = state.extra["accumulated"]
        self.trainer.load_state(state.extra["trainer"], self.args)
        run.position, run.resumed = state.position, True
        self._epoch_start, self._now = generators["epoch"], generators["now"]


class _Mode:
    """Within the block a schedule-free optimizer shows the weights it would end with."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __enter__(self) -> None:
        self._run.to_evaluation()

    def __exit__(self, *_: object) -> None:
        self._run.to_training()


@torch.no_grad()
def _copy(saved: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    if saved.keys() != parameters.keys():  # settings agree, so this is a defect of ours or of the host
        raise ValueError(f"the state's parameters are not the adapter's: {sorted(saved.keys() ^ parameters.keys())}")
    for name, parameter in parameters.items():
        parameter.copy_(saved[name])
