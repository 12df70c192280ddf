"""Cache files in musubi-tuner's own format, so that either trainer reads what the other cached.

Cites `musubi_tuner/dataset/cache_io.py` (`save_latent_cache_wan`, `save_text_encoder_output_cache_wan`) and
`image_video_dataset.py` (`get_latent_cache_path`; its W×H is the bucket's size, since clips are resized as they are
read). Our metadata come on top: what an entry was made from, so that a finished one is recognised without decoding.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.orbits.buckets import Size
from musubi_ext.orbits.windows import Window
from musubi_ext.storage import atomic_path

FORMAT = {"architecture": "wan", "format_version": "1.0.1"}
_LATENT = re.compile(
    r"(?P<stem>.+)_(?P<start>\d{5,})-(?P<frames>\d{3,})_(?P<width>\d{4,})x(?P<height>\d{4,})_wan\.safetensors",
    re.DOTALL,
)
_TEXT = re.compile(r"(?P<stem>.+)_wan_te\.safetensors", re.DOTALL)
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.safetensors", re.DOTALL)  # of `storage.atomic_path`
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")  # what safetensors ≥ 0.7 writes before it renames


@dataclass(frozen=True)
class LatentFile:
    """A latent cache and what its name says."""

    path: Path
    stem: str
    window: Window
    size: Size


def latent_path(folder: Path, stem: str, window: Window, size: Size) -> Path:
    """Where a window's latents belong, e.g. cat_00000-017_0048x0080_wan.safetensors."""
    return folder / f"{stem}_{window[0]:05d}-{window[1]:03d}_{size[0]:04d}x{size[1]:04d}_wan.safetensors"


def text_path(folder: Path, stem: str) -> Path:
    """Where a caption's embedding belongs, e.g. cat_wan_te.safetensors."""
    return folder / f"{stem}_wan_te.safetensors"


def latent_files(folder: Path) -> dict[str, list[LatentFile]]:
    """Every latent cache of a folder by the stem of its clip, sorted by name. Raises UserError."""
    found: defaultdict[str, list[LatentFile]] = defaultdict(list)
    for name in _names(folder):
        if match := _LATENT.fullmatch(name):
            start, frames, width, height = (int(match[part]) for part in ("start", "frames", "width", "height"))
            file = LatentFile(folder / name, match["stem"], (start, frames), (width, height))
            found[match["stem"]].append(file)
    return dict(found)


def text_files(folder: Path) -> dict[str, Path]:
    """Every text cache of a folder by the stem of its clip. Raises UserError."""
    return {match["stem"]: folder / name for name in _names(folder) if (match := _TEXT.fullmatch(name))}


def leftovers(folder: Path) -> list[Path]:
    """Caches under their temporary names: of a run that is writing them, or that was killed. Raises UserError."""
    return [folder / name for name in _names(folder) if _left_over(name)]


def _left_over(name: str) -> bool:
    if _OF_SAFETENSORS.fullmatch(name):
        return True
    match = _LEFTOVER.fullmatch(name)
    return match is not None and any(kind.fullmatch(match["name"] + ".safetensors") for kind in (_LATENT, _TEXT))


def _names(folder: Path) -> list[str]:
    """Names of a folder's files, links to files included, sorted; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error} (check its permissions)") from error


def entry_key(made_from: Mapping[str, Any]) -> str:
    """SHA-256 of everything an entry depends on (source, size, windows, conditioning, model)."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def write_latents(file: LatentFile, latents: Tensor, image: Tensor, metadata: Mapping[str, str]) -> None:
    """Store latents (16, F, h, w) and their conditioning (20, F, h, w), atomically. Raises UserError if not finite."""
    shape = "x".join(str(side) for side in latents.shape[1:])
    tensors = {f"latents_{shape}_{dtype_name(latents)}": latents, f"latents_image_{shape}_{dtype_name(image)}": image}
    sizes = {"width": str(file.size[0]), "height": str(file.size[1]), "frame_count": str(file.window[1])}
    _write(file.path, tensors, {**metadata, **FORMAT, **sizes})


def write_text(path: Path, embedding: Tensor, caption: str, metadata: Mapping[str, str]) -> None:
    """Store a caption's embedding (L, D), atomically. Raises UserError if it is not finite."""
    _write(path, {f"varlen_t5_{dtype_name(embedding)}": embedding}, {**metadata, **FORMAT, "caption1": caption})


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():  # upstream trains on zeros in their place
            raise UserError(f"{path}: {name} holds NaN or infinity (use float32 or bfloat16 for this model)")
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """A cache file's metadata; empty when it is absent or damaged, so that it is written anew. Raises UserError."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (FileNotFoundError, SafetensorError):
        return {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error} (check its permissions)") from error


def dtype_name(tensor: Tensor) -> str:
    """musubi-tuner's suffix, e.g. bfloat16."""
    return str(tensor.dtype).removeprefix("torch.")
