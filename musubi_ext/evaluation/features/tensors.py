"""Weights as plain tensors: safetensors, or a pickle that may hold nothing but tensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from musubi_ext.errors import shown
from musubi_ext.evaluation.result import UnavailableError

# What torch, zipfile and safetensors raise for a file that is cut short, is something else, or holds more than tensors.
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The tensors named in `shapes`, float32, from .safetensors or .pth; others in the file are left out.

    Raises UnavailableError for a file that cannot be read, that holds objects other than tensors (they would be code),
    or whose tensors are missing, misshapen or not finite.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UnavailableError(unreadable(path, error)) from error
    if not isinstance(tensors, dict):
        raise UnavailableError(f"{shown(path)}: expected tensors by name, found {type(tensors).__name__}")
    return {name: _checked(path, name, tensors.get(name), shape) for name, shape in shapes.items()}


def unreadable(path: Path, error: Exception) -> str:
    """Why `path` was not loaded, in one line."""
    if isinstance(error, pickle.UnpicklingError):
        return f"{shown(path)}: refused: it is no file of tensors alone, and a pickle of anything else can run code"
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{shown(path)}: cannot be loaded ({reason}): copy the weights again"


def _checked(path: Path, name: str, tensor: object, shape: tuple[int, ...]) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise UnavailableError(f"{shown(path)}: tensor {name!r} is missing: these are other weights")
    if tuple(tensor.shape) != shape:
        raise UnavailableError(f"{shown(path)}: {name}: expected shape {shape}, found {tuple(tensor.shape)}")
    if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
        raise UnavailableError(
            f"{shown(path)}: {name}: expected finite numbers, found {tensor.dtype} or not finite ones"
        )
    return tensor.float()
