"""Which weights a learned metric means: repository, revision, files, hashes and licence, one row a network."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Network(StrEnum):
    """The networks whose features are measured, and the one that finds the subject."""

    CLIP = "clip"
    DINO = "dino"
    ALEXNET = "alexnet"
    LPIPS = "lpips"
    SAM2 = "sam2"
    INCEPTION = "inception"
    I3D = "i3d"


@dataclass(frozen=True)
class Pinned:
    """One network's weights.

    `repository` is a repository of the Hugging Face hub at `revision`, in which each of `files` and one of `weights` is
    needed; without a repository, one of `weights` is a file at `url`. `sha256` is that of the published weights (None:
    recorded at load only). `licence` is what their publishers state.
    """

    weights: tuple[str, ...]
    licence: str
    repository: str = ""
    revision: str | None = None
    files: tuple[str, ...] = ()
    url: str = ""
    sha256: str | None = None

    @property
    def name(self) -> str:
        """What a reader knows it by: the repository, or the file."""
        return self.repository or self.weights[-1]


TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")
LPIPS_COMMIT = "082bb24f84c091ea94de2867d34c4544f68e0963"  # of github.com/richzhang/PerceptualSimilarity
UNSTATED = "not stated with the file, which the user named"

PINNED: dict[Network, Pinned] = {
    Network.CLIP: Pinned(
        weights=TRANSFORMERS,
        licence="MIT",
        repository="openai/clip-vit-base-patch32",
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        files=("config.json",),
        sha256="a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",  # of pytorch_model.bin
    ),
    Network.DINO: Pinned(
        weights=TRANSFORMERS,
        licence="Apache-2.0",
        repository="facebook/dino-vitb16",
        revision="f205d5d8e640a89a2b8ef0369670dfc37cc07fc2",
        files=("config.json",),
    ),
    Network.ALEXNET: Pinned(
        weights=("alexnet.safetensors", "alexnet-owt-7be5be79.pth"),
        licence="BSD-3-Clause",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    Network.LPIPS: Pinned(
        weights=("lpips_alex.safetensors", "lpips_alex.pth"),  # lpips/weights/v0.1/alex.pth under a name that says so
        licence="BSD-2-Clause",
        url=f"https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/{LPIPS_COMMIT}/lpips/weights/v0.1/alex.pth",
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
    Network.SAM2: Pinned(
        weights=("model.safetensors",),
        licence="Apache-2.0",
        repository="facebook/sam2.1-hiera-tiny",
        revision="de431c4043854a71d8101e17995dfe596bf101a5",
        files=("config.json",),
    ),
    # TorchScript files are programs: never looked for, never downloaded, loaded only when the user names them.
    Network.INCEPTION: Pinned(weights=("inception-2015-12-05.pt",), licence=UNSTATED),
    Network.I3D: Pinned(weights=("i3d_torchscript.pt",), licence=UNSTATED),
}
