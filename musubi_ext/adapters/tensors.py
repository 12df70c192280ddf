"""Safetensors files read with suspicion and written the same, byte for byte, every time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.storage import atomic_path

LONGEST_HEADER = 1 << 20  # bytes; a rank-32 LoRA of 40 blocks needs 160 kB


def read_header(path: Path | str) -> dict[str, Any]:
    """The JSON header: key → {dtype, shape, data_offsets}, and `__metadata__`.

    Raises UserError for a file that is absent, no safetensors file, truncated, or whose header is over 1 MB.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if path.stat().st_size < 8 or length > LONGEST_HEADER:
            found = f"its header would be {length} bytes" if path.stat().st_size >= 8 else "shorter than 8 bytes"
            raise UserError(f"{path}: not a safetensors adapter: {found} (expected at most {LONGEST_HEADER})")
        text = file.read(length)
    if len(text) < length:
        raise UserError(f"{path}: truncated: {length} bytes of header announced, {len(text)} found (copy it again)")
    try:
        header = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise UserError(f"{path}: not a safetensors file: its header is no JSON object")
    return header


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors by key, on the CPU, and the metadata. Raises UserError as read_header does."""
    read_header(path)
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: truncated or damaged: {error} (copy it again)") from error


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the file atomically. The same content gives the same bytes."""
    own = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(_sorted_metadata(safetensors.torch.save(own, dict(metadata))))


def _sorted_metadata(content: bytes) -> bytes:
    """The library writes metadata in an order that changes from run to run, and with it every checksum."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    ordered = ({"__metadata__": dict(sorted(metadata.items()))} if metadata else {}) | header
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start on a multiple of eight
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
