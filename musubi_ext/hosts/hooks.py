"""The hooks of musubi-tuner's trainer that do nothing by themselves (trainer_base.py, "extension seams")."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch


class Hooks:
    """Base of a host; the extension overrides what it needs and calls these first."""

    def on_train_start(self, args: Namespace, accelerator: Any, network: Any, transformer: Any, optimizer: Any) -> None:
        """Once, with everything prepared, before the first batch."""

    def on_post_optimizer_step(
        self, args: Namespace, accelerator: Any, network: Any, transformer: Any, sync_gradients: bool, global_step: int
    ) -> None:
        """After every inner step."""

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
        """After a checkpoint was written."""

    def extra_metadata(self, args: Namespace) -> dict[str, Any]:
        """Nothing to add."""
        return {}

    def extra_step_logs(self, args: Namespace, logs: dict[str, Any]) -> dict[str, Any]:
        """Nothing to add."""
        return {}
