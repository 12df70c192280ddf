"""Networks, loaded when first asked for and kept by the process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from musubi_ext.evaluation.features.located import DIGITS, locate
from musubi_ext.evaluation.features.pinned import PINNED, Network
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.storage import sha256

if TYPE_CHECKING:
    import torch

    from musubi_ext.evaluation.features.source import ModelSource


@dataclass(frozen=True)
class Loaded:
    """A network that is ready, and what a result says of its weights."""

    model: Any
    identity: str


@lru_cache(maxsize=8)
def loaded(source: ModelSource, network: Network) -> Loaded:
    """The network of this source, loaded when first asked for and kept. Raises UnavailableError with the reason."""
    from musubi_ext.evaluation.features import perceptual, scripted, segmenter, vision

    device = _device(source.device)
    if network in (Network.INCEPTION, Network.I3D):
        named = source.inception_file if network is Network.INCEPTION else source.i3d_file
        path = scripted.named_file(network, named, source.folder)
        return Loaded(scripted.load_script(path, device), f"{path.name} sha256 {sha256(path)[:DIGITS]}")
    pinned = PINNED[network]
    weights = locate(pinned, source.folder, source.offline)
    if network is Network.LPIPS:
        alexnet = locate(PINNED[Network.ALEXNET], source.folder, source.offline)
        names = (alexnet.identity(PINNED[Network.ALEXNET]), weights.identity(pinned))
        return Loaded(perceptual.Lpips(alexnet.weights, weights.weights, device), ", ".join(names))
    load = {Network.CLIP: vision.load_clip, Network.DINO: vision.load_dino, Network.SAM2: segmenter.load_sam2}[network]
    return Loaded(load(weights.weights, device), weights.identity(pinned))


def _device(name: str) -> torch.device:
    """The device, if it can be used. Raises UnavailableError."""
    import torch

    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()  # also refuses devices that hold no numbers
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).strip().partition("\n")[0]
        raise UnavailableError(
            f"device {name!r} cannot be used: {reason} (another: ModelSource(device='cpu'))"
        ) from error
    return device
