"""LPIPS with AlexNet (Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018).

Version 0.1 of the authors' code: pictures in [−1, 1] are scaled per channel, AlexNet's five ReLU outputs are normalised
over their channels, and their squared difference is weighted by a learnt non-negative weight per channel, averaged over
the picture and summed over the layers (eq. 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import conv2d, max_pool2d, relu

from musubi_ext.evaluation.features.tensors import read_tensors

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to the length of a feature vector
SMALLEST = 31  # pixels of a side that leave AlexNet's last layers one value


@dataclass(frozen=True)
class Layer:
    """A convolution of torchvision's AlexNet, and whether its input is pooled first."""

    name: str
    outputs: int
    inputs: int
    kernel: int
    stride: int
    padding: int
    pooled: bool


ALEXNET = (
    Layer("features.0", 64, 3, 11, 4, 2, pooled=False),
    Layer("features.3", 192, 64, 5, 1, 2, pooled=True),
    Layer("features.6", 384, 192, 3, 1, 1, pooled=True),
    Layer("features.8", 256, 384, 3, 1, 1, pooled=False),
    Layer("features.10", 256, 256, 3, 1, 1, pooled=False),
)


def alexnet_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of torchvision's alexnet that are used: its convolutions."""
    kernels = {f"{la.name}.weight": (la.outputs, la.inputs, la.kernel, la.kernel) for la in ALEXNET}
    return {**kernels, **{f"{la.name}.bias": (la.outputs,) for la in ALEXNET}}


def head_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of lpips/weights/v0.1/alex.pth: a weight per channel of each layer."""
    return {f"lin{index}.model.1.weight": (1, layer.outputs, 1, 1) for index, layer in enumerate(ALEXNET)}


class Lpips:
    """The distance with these weights on this device."""

    def __init__(self, alexnet: Path, head: Path, device: torch.device) -> None:
        self.device = device
        self._convolutions = _on(device, read_tensors(alexnet, alexnet_shapes()))
        self._weights = list(_on(device, read_tensors(head, head_shapes())).values())
        self._shift, self._scale = (torch.tensor(v, device=device)[:, None, None] for v in (SHIFT, SCALE))

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances (N,) of pictures (N, 3, H, W) in [−1, 1], H and W ≥ 31; 0 for identical ones."""
        # One after the other in batches of one size: identical pictures then have identical features.
        distances = torch.zeros(len(first), device=self.device)
        for weight, a, b in zip(self._weights, self._layers(first), self._layers(second), strict=True):
            difference = (_unit(a) - _unit(b)) ** 2
            distances += conv2d(difference, weight).mean(dim=(1, 2, 3))
        return distances

    def _layers(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        features, found = (pictures - self._shift) / self._scale, []
        for layer in ALEXNET:
            if layer.pooled:
                features = max_pool2d(features, 3, 2)
            kernel, bias = (self._convolutions[f"{layer.name}.{part}"] for part in ("weight", "bias"))
            features = relu(conv2d(features, kernel, bias, layer.stride, layer.padding))
            found.append(features)
        return found


def _unit(features: torch.Tensor) -> torch.Tensor:
    length = features.square().sum(dim=1, keepdim=True).sqrt()
    return features / (length + EPSILON)


def _on(device: torch.device, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
