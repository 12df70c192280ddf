"""A folder of weights: the networks' true classes and file layouts, small where the layout allows it, random."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from musubi_ext.evaluation.features import ModelSource
from musubi_ext.evaluation.features.perceptual import alexnet_shapes, head_shapes
from musubi_ext.video import Frames

CLIP, DINO = "clip-vit-base-patch32", "dino-vitb16"
INCEPTION, I3D = "inception-2015-12-05.pt", "i3d_torchscript.pt"


class TinyInception(torch.nn.Module):
    """Six numbers of a picture: means and means of squares by channel."""

    def forward(self, pictures: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert pictures.dtype == torch.uint8
        assert return_features
        scaled = pictures.float() / 255
        return torch.cat([scaled.mean(dim=[2, 3]), scaled.square().mean(dim=[2, 3])], dim=1)


class TinyI3D(torch.nn.Module):
    """Four numbers of a video: channel means, and how much it changes from frame to frame."""

    def forward(
        self, video: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert rescale
        assert resize
        assert return_features
        scaled = video / 127.5 - 1
        change = (scaled[:, :, 1:] - scaled[:, :, :-1]).abs().mean(dim=[1, 2, 3, 4])
        return torch.cat([scaled.mean(dim=[2, 3, 4]), change[:, None]], dim=1)


def save_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 8, "initializer_range": 1.0, "projection_dim": 24}
    text = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "projection_dim": 24}
    config = CLIPConfig(text_config=small | text, vision_config=small | vision, projection_dim=24)
    CLIPModel(config).save_pretrained(folder)


def save_dino(folder: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, initializer_range=0.5
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)


def save_scripts(folder: Path) -> None:
    with warnings.catch_warnings():  # torch deprecates TorchScript; the published networks are in it
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(TinyInception()).save(str(folder / INCEPTION))
        torch.jit.script(TinyI3D()).save(str(folder / I3D))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all networks' weights. Read it, never write to it."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_clip(folder / CLIP)
        save_dino(folder / DINO)
        convolutions = {name: torch.randn(shape) * 0.05 for name, shape in alexnet_shapes().items()}
        save_file(convolutions, folder / "alexnet.safetensors")
        torch.save({name: torch.rand(shape) for name, shape in head_shapes().items()}, folder / "lpips_alex.pth")
    save_scripts(folder)
    return folder


@pytest.fixture(scope="session")
def models(weights: Path) -> ModelSource:
    return ModelSource(weights, inception_file=Path(INCEPTION), i3d_file=Path(I3D))


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No weights but those of a test: empty hub and torch caches, and whoever opens a connection fails."""
    from huggingface_hub import constants

    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address} was opened")

    before = torch.hub.get_dir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    torch.hub.set_dir(str(tmp_path / "torch"))
    yield tmp_path
    torch.hub.set_dir(before)


def draw(count: int, height: int = 48, width: int = 72, seed: int = 0) -> Frames:
    """Frames (F, H, W, 3) of smooth colours that change over time."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 6, 3))
    fine = coarse.repeat(height // 4, axis=1).repeat(width // 6, axis=2) + rng.normal(0, 12, (count, height, width, 3))
    return np.clip(fine, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def video() -> Callable[..., Frames]:
    return draw
