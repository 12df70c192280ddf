"""What musubi-tuner imports and our own installation does not bring: it is added with --no-deps, pins unheeded.

Its exact pins (diffusers 0.32.1, accelerate 1.6.0, …) exclude a diffusers that has Wan2.2; with the newest of
everything it trains the same adapters, bit for bit.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path


@dataclass(frozen=True)
class Requirement:
    """A module, and the name under which pip knows it."""

    module: str
    distribution: str

    @property
    def is_missing(self) -> bool:
        """Whether `import` would not find it, nor in `host_packages`. It is not imported."""
        return importlib.util.find_spec(self.module) is None and not self._in_host_packages

    @property
    def is_apart(self) -> bool:
        """Whether it is in `host_packages` alone, where only musubi-tuner's import finds it."""
        return self._in_host_packages and PathFinder.find_spec(self.module) is None

    @property
    def _in_host_packages(self) -> bool:
        return (host_packages() / self.module).is_dir()

    @property
    def version(self) -> str | None:
        """The installed version; None when pip has no record of it under this name."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


TORCHVISION = Requirement("torchvision", "torchvision")
ALWAYS = (
    Requirement("easydict", "easydict"),
    Requirement("einops", "einops"),
    Requirement("voluptuous", "voluptuous"),
    Requirement("ftfy", "ftfy"),
    Requirement("cv2", "opencv-python-headless"),
    Requirement("sentencepiece", "sentencepiece"),
    TORCHVISION,
    Requirement("toml", "toml"),
    Requirement("tqdm", "tqdm"),
    Requirement("huggingface_hub", "huggingface-hub"),
)
WITH_CUDA = Requirement("bitsandbytes", "bitsandbytes")  # the 8-bit optimizers; it has no use without CUDA


def host_packages() -> Path:
    """A folder of modules that are on the path only once musubi-tuner is imported.

    For a torchvision whose compiled operators do not load (PyPI's wheel beside a CPU torch): among the other packages
    it would break every import of transformers and diffusers; here it is found when fix (a) of `importing` is at hand.
    """
    return Path(sys.prefix) / "host-packages"


def missing(cuda: bool = False) -> list[Requirement]:
    """What has to be installed before training; `cuda`: count what only a CUDA device needs."""
    wanted = (*ALWAYS, WITH_CUDA) if cuda else ALWAYS
    return [requirement for requirement in wanted if requirement.is_missing]


def pip_command(requirements: Iterable[Requirement]) -> str:
    """The shell command that installs them; torchvision by itself, as the build that belongs to the installed torch."""
    names = [requirement.distribution for requirement in requirements]
    plain = [name for name in names if name != TORCHVISION.distribution]
    commands = [f"pip install {' '.join(plain)}"] if plain else []
    commands += [_torchvision_command(importlib.metadata.version("torch"))] if len(plain) < len(names) else []
    return " && ".join(commands)


def _torchvision_command(torch: str) -> str:
    """torchvision 0.(N + 15) is torch 2.N's; its operators load beside a torch of the same release and index alone.

    `torch` is pip's version: "2.9.1+cpu" and "2.9.1+cu128" come from PyTorch's own indices, "2.9.1" from PyPI.
    --no-deps, because its dependency would replace the torch that is there.
    """
    release, _, build = torch.partition("+")
    major, minor = release.split(".")[:2]
    wanted = f"'torchvision==0.{int(minor) + 15}.*'" if major == "2" else "torchvision"
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install --no-deps {wanted}{index}"
