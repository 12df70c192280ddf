"""What upstream itself logs: its own trackers (TensorBoard, wandb), the norms it limits, its average loss.

Kept so that every logging flag of upstream works. The extension's own tracking, in MLflow, is apart from this.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import toml
from torch import Tensor

from musubi_ext.hosts.loop import Run


class HostLog:
    """One phase's. `trainer` brings upstream's `generate_step_logs` and `extra_step_logs`."""

    def __init__(self, trainer: Any, args: Namespace, run: Run, descriptions: Any) -> None:
        from musubi_tuner.utils.train_utils import LossRecorder

        self.run = run
        self._trainer, self._args, self._descriptions = trainer, args, descriptions
        self._losses = LossRecorder()
        self._norms: tuple[Any, Any, Any] = (None, None, None)

    def open(self, *, resumed: bool) -> None:
        """Start the trackers that `--log_with` or `--logging_dir` ask for, in the main process."""
        from musubi_tuner.utils import train_utils

        args, accelerator = self._args, self.run.accelerator
        if not accelerator.is_main_process or not accelerator.log_with:
            return
        options = {"wandb": {"name": args.wandb_run_name}} if args.wandb_run_name else {}
        if args.log_tracker_config is not None:
            options = toml.load(args.log_tracker_config)
        name = args.log_tracker_name or "network_train"
        accelerator.init_trackers(name, config=train_utils.get_sanitized_config_or_none(args), init_kwargs=options)
        if not resumed:
            accelerator.log({}, step=0)

    def close(self) -> None:
        """End the trackers: after the last save, which upstream's own end before."""
        for tracker in self.run.accelerator.trackers:
            tracker.finish()

    def limit_norms(self) -> None:
        """`--scale_weight_norms`: keep every pair of matrices below a norm (upstream's max-norm regularisation)."""
        if self._args.scale_weight_norms:
            network = self.run.accelerator.unwrap_model(self.run.network)
            self._norms = network.apply_max_norm_regularization(
                self._args.scale_weight_norms, self.run.accelerator.device
            )

    def step(self, loss: Tensor, metrics: dict[str, float]) -> None:
        """Upstream's entries for one batch."""
        run, place = self.run, self.run.position.batch - 1
        current = float(loss.detach())
        self._losses.add(epoch=run.position.epoch, step=place, loss=current)
        if run.accelerator.trackers:
            logs = self._trainer.generate_step_logs(
                self._args,
                current,
                self._losses.moving_average,
                run.schedule,
                self._descriptions,
                run.optimizer,
                *self._norms,
            )
            logs.update(metrics)
            logs.update(self._trainer.extra_step_logs(self._args, logs))
            run.accelerator.log(logs, step=run.position.step)

    def epoch(self) -> None:
        """The average loss at the end of an epoch, at the step it was reached (upstream counts epochs there)."""
        if self.run.accelerator.trackers:
            self.run.accelerator.log({"loss/epoch": self._losses.moving_average}, step=self.run.position.step)

    def state(self) -> dict[str, Any]:
        """The losses that the average is taken over."""
        return {"losses": self._losses.loss_list, "total": self._losses.loss_total}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._losses.loss_list, self._losses.loss_total = list(state["losses"]), state["total"]
