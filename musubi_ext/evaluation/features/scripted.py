"""Inception and I3D out of TorchScript files. Such a file is a program: only one that the user named is loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from musubi_ext.errors import shown
from musubi_ext.evaluation.features.pinned import PINNED, Network
from musubi_ext.evaluation.features.tensors import UNREADABLE, unreadable
from musubi_ext.evaluation.result import UnavailableError

HOW = {
    Network.INCEPTION: "ModelSource(inception_file=…)",
    Network.I3D: "ModelSource(i3d_file=…)",
}


def named_file(network: Network, named: Path | None, folder: Path | None) -> Path:
    """The file the user named, in the models folder when the path is relative and not found from here.

    Raises UnavailableError when none was named or it is not there.
    """
    usual = PINNED[network].weights[0]
    if named is None:
        there = "" if folder is None or not (folder / usual).is_file() else f"{shown(folder / usual)} is there, but "
        raise UnavailableError(
            f"{network}: no file was named: {there}a TorchScript file is a program and is loaded only when named, "
            f"{HOW[network]} (commonly {usual}; never downloaded)"
        )
    candidates = [named] if folder is None or named.is_absolute() else [named, folder / named]
    for path in candidates:
        if path.is_file():
            return path
    raise UnavailableError(f"{network}: not found: {' nor '.join(map(shown, candidates))} (check {HOW[network]})")


def load_script(path: Path, device: torch.device) -> Any:
    """A TorchScript module in eval mode. Raises UnavailableError."""
    load: Any = torch.jit.load  # untyped
    try:
        with warnings.catch_warnings():  # torch deprecates TorchScript; the published networks are in it
            warnings.simplefilter("ignore", DeprecationWarning)
            return load(str(path), map_location=device).eval()
    except UNREADABLE as error:
        raise UnavailableError(unreadable(path, error)) from error


def inception_features(network: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Features (N, 2048) of uint8 pictures (N, 3, H, W), which the network itself resizes to 299×299.

    The call is the one of stylegan2-ada-pytorch, metrics/frechet_inception_distance.py.
    """
    return _called(Network.INCEPTION, network, pictures, return_features=True)


def i3d_features(network: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Features (1, 400) of one video (T, 3, H, W) uint8, which the network itself scales and resizes to 224×224.

    The call is the one of StyleGAN-V, src/metrics/frechet_video_distance.py.
    """
    video = pictures.permute(1, 0, 2, 3)[None].float()
    return _called(Network.I3D, network, video, rescale=True, resize=True, return_features=True)


def _called(name: Network, network: Any, inputs: torch.Tensor, **options: bool) -> torch.Tensor:
    try:
        features = network(inputs, **options)
    except (RuntimeError, TypeError, torch.jit.Error) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UnavailableError(
            f"{name}: the named file does not answer {tuple(inputs.shape)} with {', '.join(options)}: {reason}"
        ) from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise UnavailableError(f"{name}: expected features (N, D) from the named file, found {found}")
    return features
