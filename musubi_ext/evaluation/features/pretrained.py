"""A model of transformers out of a local folder, loaded whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from musubi_ext.errors import shown
from musubi_ext.evaluation.features.tensors import UNREADABLE, unreadable
from musubi_ext.evaluation.result import UnavailableError


def expect_type(weights: Path, *model_types: str) -> None:
    """Raise UnavailableError unless the config.json beside the weights is of one of these types."""
    path = weights.parent / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnavailableError(unreadable(path, error)) from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in model_types:
        raise UnavailableError(f"{shown(path)}: model_type: expected {' or '.join(model_types)}, found {found!r}")


def load_whole(kind: Any, weights: Path, **options: Any) -> Any:
    """A model in eval mode, float32, out of its folder. Raises UnavailableError.

    transformers would draw what a file lacks at random, and such a model answers all the same: that is refused.
    """
    safe = weights.suffix == ".safetensors"
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                weights.parent,
                local_files_only=True,
                use_safetensors=safe,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported like missing ones, below
                dtype=torch.float32,
                **options,
            )
    except UNREADABLE as error:
        raise UnavailableError(unreadable(weights, error)) from error
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    if lacking := sorted([*report["missing_keys"], *mismatched]):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UnavailableError(
            f"{shown(weights)}: no weights of the expected shape for {lacking[0]!r}{more}: these are other weights"
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UnavailableError(f"{shown(weights)}: {name}: expected finite numbers, found others")
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports every tensor of CLIP's text tower as unexpected; what matters is checked above."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
