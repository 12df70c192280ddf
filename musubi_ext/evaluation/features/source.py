"""Where learned weights are, and the features of frames they give. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musubi_ext.evaluation.features.loaded import loaded
from musubi_ext.evaluation.features.pinned import Network
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.video import Frames

if TYPE_CHECKING:
    import torch

    Prepare = Callable[[Frames], torch.Tensor]

Features = NDArray[np.float32]

BATCH = 16  # pictures of 224×224 at once
PIXELS = 2 << 20  # of pictures of their own size at once: both sides of LPIPS take about 250 MB


@dataclass(frozen=True)
class ModelSource:
    """A folder of weights, else the local cache, else unavailable; `offline=False` downloads into that cache once.

    `device` is where networks run, as torch names it; one that is not there makes the metric unavailable, never another
    device's. `inception_file` and `i3d_file` are TorchScript files, which are programs and run only when named here.
    Networks are loaded when first asked for and kept by the process. Features are float32 and depend on the device's
    arithmetic alone: the same frames on the same machine give the same bits.
    """

    folder: Path | None = None
    offline: bool = True
    device: str = "cpu"
    inception_file: Path | None = None
    i3d_file: Path | None = None

    def __post_init__(self) -> None:
        for name in ("folder", "inception_file", "i3d_file"):
            path = getattr(self, name)
            object.__setattr__(self, name, None if path is None else Path(path))

    def backend(self, *networks: Network) -> str:
        """The library, and which bytes of weights were loaded. Raises UnavailableError when they cannot be."""
        library = "transformers" if networks[0] in (Network.CLIP, Network.DINO) else "torch"
        names = [loaded(self, network).identity for network in networks]
        return f"{library} {version(library)}, {', '.join(names)}" + (
            "" if self.device == "cpu" else f", {self.device}"
        )

    def clip_image(self, frames: Frames) -> Features:
        """CLIP's image embeddings (N, D), not normalised."""
        from musubi_ext.evaluation.features.pixels import clip_pixels
        from musubi_ext.evaluation.features.vision import clip_features

        model = loaded(self, Network.CLIP).model
        side = int(model.config.image_size)
        return self._embed(frames, lambda some: clip_pixels(some, side), lambda pixels: clip_features(model, pixels))

    def dino(self, frames: Frames) -> Features:
        """DINO's class tokens (N, D) of the pictures as Circle-Rotate prepares them."""
        from musubi_ext.evaluation.features.pixels import circle_rotate_pixels

        return self._dino(frames, circle_rotate_pixels)

    def dino_vbench(self, frames: Frames) -> Features:
        """DINO's class tokens (N, D) of the pictures as VBench prepares them: whole, not cropped."""
        from musubi_ext.evaluation.features.pixels import vbench_pixels

        return self._dino(frames, vbench_pixels)

    def lpips(self, first: Frames, second: Frames) -> NDArray[np.float64]:
        """LPIPS (N,) between pictures of one size, pair by pair; 0 for identical ones."""
        from musubi_ext.evaluation.features.perceptual import SMALLEST

        height, width = first.shape[1:3]
        if min(height, width) < SMALLEST:
            raise UnavailableError(f"LPIPS needs {SMALLEST} pixels a side, the pictures have {width}x{height}")
        distance = loaded(self, Network.LPIPS).model
        with _arithmetic():
            pairs = zip(_batches(first), _batches(second), strict=True)
            found = [distance(self._signed(a), self._signed(b)).cpu().numpy() for a, b in pairs]
        return _finite(np.concatenate(found)).astype(np.float64)

    def inception(self, frames: Frames) -> Features:
        """Features (N, 2048) of the named Inception."""
        from musubi_ext.evaluation.features.scripted import inception_features

        model = loaded(self, Network.INCEPTION).model
        with _arithmetic():
            found = [inception_features(model, self._bytes(some)).cpu().numpy() for some in _batches(frames)]
        return _finite(np.concatenate(found))

    def i3d(self, frames: Frames) -> Features:
        """Features (1, 400) of one video by the named I3D."""
        from musubi_ext.evaluation.features.scripted import i3d_features

        model = loaded(self, Network.I3D).model
        with _arithmetic():
            return _finite(i3d_features(model, self._bytes(frames)).cpu().numpy())

    def _dino(self, frames: Frames, prepare: Prepare) -> Features:
        from musubi_ext.evaluation.features.vision import dino_features

        model = loaded(self, Network.DINO).model
        return self._embed(frames, prepare, lambda pixels: dino_features(model, pixels))

    def _embed(self, frames: Frames, prepare: Prepare, embed: Callable[[torch.Tensor], torch.Tensor]) -> Features:
        with _arithmetic():
            some = (frames[start : start + BATCH] for start in range(0, len(frames), BATCH))
            found = [embed(prepare(batch).to(self.device)).float().cpu().numpy() for batch in some]
        return _finite(np.concatenate(found))

    def _bytes(self, frames: Frames) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).to(self.device)

    def _signed(self, frames: Frames) -> torch.Tensor:
        """Frames (N, 3, H, W) in [−1, 1]."""
        return self._bytes(frames).float() / 255 * 2 - 1


@contextmanager
def _arithmetic() -> Iterator[None]:
    """Full float32 and the same algorithms each time, also where the caller allows the GPU less."""
    import torch

    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        matmul.allow_tf32 = before


def _batches(frames: Frames) -> Iterator[Frames]:
    """Runs of frames of at most `PIXELS` pixels together, at least one frame each."""
    step = max(1, PIXELS // (frames.shape[1] * frames.shape[2]))
    return (frames[start : start + step] for start in range(0, len(frames), step))


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise UnavailableError("the network's features are not finite numbers")
    return values
