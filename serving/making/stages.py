"""What a job has reached, in its folder: one safetensors file a stage, whole or absent, so that a restart goes on.

FOLDER/stages/0-encode.safetensors … holds the tensors, and in its metadata the key of the job (request, version, base,
precision, levers), the stage's own time and peak memory, and a checksum. A file with another key is of another job.

A file appears by one rename, so the end of the process at any moment leaves it whole or absent. It is not forced to the
disk, which would cost more than a small stage takes: after a power failure the checksum tells what is not whole. Either
way the stage is computed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Stage = Literal["encode", "high", "low", "decode", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class StageRecord:
    """One stage of one candidate: seconds, and the most memory meanwhile, in bytes.

    `memory` says of what: "cuda" what torch had allocated on the GPU, "rss" the whole process. `resumed`: it was found
    in the job's folder, with the time it took then.
    """

    stage: str
    seconds: float
    peak_bytes: int
    memory: str
    candidate: int = 0
    resumed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class StageStore:
    """The stages of one job in `folder`, which is made when the first is written."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path(self, stage: Stage, candidate: int = 0) -> Path:
        """Where a stage of a candidate lies."""
        return self.folder / "stages" / f"{candidate}-{stage}.safetensors"

    def read(self, stage: Stage, key: str, candidate: int = 0) -> tuple[dict[str, Tensor], StageRecord] | None:
        """The tensors and the record of a finished stage; None when it was not reached, or by another job."""
        from safetensors import SafetensorError, safe_open

        path = self.path(stage, candidate)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (FileNotFoundError, SafetensorError):
            return None
        if metadata["sha256"] != _digest(tensors):
            return None
        return tensors, StageRecord(**json.loads(metadata["record"]) | {"resumed": True})

    def write(self, stage: Stage, key: str, tensors: dict[str, Tensor], record: StageRecord) -> None:
        """Keep a finished stage: whole and under its name when this returns."""
        from safetensors.torch import save_file

        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        path = self.path(stage, record.candidate)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")  # one process has a job at a time; what it leaves, the next overwrites
        save_file(plain, part, {"key": key, "record": json.dumps(record.as_dict()), "sha256": _digest(plain)})
        os.replace(part, path)

    def reached(self, key: str, candidate: int = 0) -> Stage | None:
        """The last stage that is there, without reading its tensors."""
        found: Stage | None = None
        for stage in STAGES:
            if _key_of(self.path(stage, candidate)) == key:
                found = stage
        return found

    def drop(self, *stages: Stage, candidate: int = 0) -> None:
        """Delete stages that no later one needs any more."""
        for stage in stages:
            self.path(stage, candidate).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the stages: the video is there, or nobody wants it any more."""
        shutil.rmtree(self.folder / "stages", ignore_errors=True)


class Meter:
    """Seconds and peak memory of a block, by `with meter.measured()`; read them afterwards."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self.seconds = 0.0
        self.peak_bytes = 0

    @property
    def memory(self) -> str:
        """What `peak_bytes` counts."""
        return "cuda" if self._cuda else "rss"

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what happens inside, waiting for the GPU at its end."""
        self._begin()
        started = time.perf_counter()
        yield
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - started
        self.peak_bytes = self._peak()

    def _begin(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            return
        with suppress(OSError):  # no Linux: the peak is then the process's own since its start
            Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far

    def _peak(self) -> int:
        if self._cuda:
            import torch

            return int(torch.cuda.max_memory_allocated())
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _digest(tensors: dict[str, Tensor]) -> str:
    """Hex SHA-256 of all bytes, by name."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _key_of(path: Path) -> str | None:
    """The key in a safetensors file's header: 8 bytes of length, then JSON."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 1 << 20)))
            return str(header["__metadata__"]["key"])
    except (OSError, struct.error, ValueError, KeyError):
        return None
