"""Training states on disk: whole or absent, verified by hash, so that a killed training goes on as if nothing was.

A state is a folder NAME-LABEL-state (musubi-tuner's names): `adapter.safetensors`, `optimizer.pt` (optimizer, schedule,
gradient scaler), `rng-RANK.pt` per process, and `state.json` with the position, the settings it belongs to and the
SHA-256 of every other file. Unlike upstream's it knows its epoch and its batch. Nothing in it is a pickle of objects:
the `.pt` files are read with `weights_only=True`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from musubi_ext import rng
from musubi_ext.errors import UserError
from musubi_ext.hosts.disk import writing
from musubi_ext.storage import sha256

SCHEMA = 1
ADAPTER, OPTIMIZER, INDEX = "adapter.safetensors", "optimizer.pt", "state.json"
_LABEL = re.compile(r"step\d{8,}|\d{6,}")


@dataclass(frozen=True, order=True)
class Position:
    """How far a training is."""

    step: int = 0  # updates of the weights
    epoch: int = 0  # whole epochs
    batch: int = 0  # batches of the epoch under way


@dataclass(frozen=True)
class Snapshot:
    """What a state is made of, alive."""

    position: Position
    tensors: Mapping[str, Tensor]  # the adapter's parameters by name
    optimizer: Mapping[str, Any]  # state dictionaries: "optimizer", and "schedule" and "scaler" where there are any
    extra: Mapping[str, Any]  # what trainer and loop keep beside them, as JSON
    epoch_start: dict[str, Any]  # the generators as they were when the epoch began


@dataclass(frozen=True)
class State:
    """A verified state."""

    path: Path
    position: Position
    extra: dict[str, Any]  # what trainer and loop keep beside the weights
    settings: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """The adapter's parameters by name."""
        tensors: dict[str, Tensor] = load_file(self.path / ADAPTER)
        return tensors

    def optimizer(self) -> dict[str, Any]:
        """State dictionaries: "optimizer", and "schedule" and "scaler" where there are any."""
        return _load(self.path / OPTIMIZER)

    def generators(self, rank: int) -> dict[str, Any]:
        """ "now" and "epoch", the generators as they are and as they were when the epoch began, of one process."""
        return _load(self.path / f"rng-{rank}.pt")


class States:
    """The states of one training: those of `name` in `folder`. `settings` is what an adapter depends on."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.folder, self.name = folder, name
        self.settings = json.loads(json.dumps(dict(settings), sort_keys=True, default=str))

    def path(self, label: str) -> Path:
        """NAME-step00000100-state or NAME-000002-state."""
        return self.folder / f"{self.name}-{label}-state"

    def write(self, label: str, snapshot: Snapshot, accelerator: Any) -> Path:
        """Write and verify a state; every process of `accelerator` calls this. Raises DiskError and leaves nothing."""
        partial, path = self.folder / f".{self.name}-{label}-state.partial", self.path(label)
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            with writing(path):
                self._write(partial, snapshot, accelerator)
                if accelerator.is_main_process:
                    self._seal(partial, snapshot.position, snapshot.extra)
                    _replace(partial, path)
        finally:
            if accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        return path

    def _write(self, partial: Path, snapshot: Snapshot, accelerator: Any) -> None:
        generators = {"now": rng.capture(), "epoch": snapshot.epoch_start}
        torch.save(generators, partial / f"rng-{accelerator.process_index}.pt")
        if accelerator.is_main_process:
            named = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
            save_file(named, partial / ADAPTER)
            torch.save(dict(snapshot.optimizer), partial / OPTIMIZER)
        accelerator.wait_for_everyone()

    def newest(self) -> tuple[State | None, list[str]]:
        """The last whole state, and a sentence for each later one that is damaged.

        Raises UserError when it belongs to other data, flags or weights, naming every difference.
        """
        skipped, found = [], []
        for path in self._folders():
            try:
                found.append(read_state(path))
            except UserError as error:
                skipped.append(str(error))
        if not found:
            return None, skipped
        state = max(found, key=lambda state: state.position)
        check_settings(state, self.settings)
        return state, skipped

    def prune(self, keep: int, verified: Path) -> None:
        """Remove all but the `keep` newest, once `verified`, the one just written, was read back whole."""
        read_state(verified)
        for path in sorted(self._folders(), key=_position)[:-keep]:
            if path != verified:  # a damaged one may claim to be later
                _remove(path)

    def clear(self) -> None:
        """Remove every state."""
        for path in list(self._folders()):
            _remove(path)
        self.sweep()

    def sweep(self) -> None:
        """Remove what a killed process left half written or half removed; nobody else writes to the folder."""
        for path in self.folder.glob(f".{self.name}-*-state.*"):
            shutil.rmtree(path)
        for path in self.folder.glob(f".{self.name}*.safetensors"):  # storage.atomic_path's temporary names
            path.unlink()

    def remove_before(self, step: int) -> None:
        """Remove the states of fewer than `step` updates."""
        for path in list(self._folders()):
            if _position(path).step < step:
                _remove(path)

    def _folders(self) -> Iterator[Path]:
        for path in sorted(self.folder.glob(f"{self.name}-*-state")):
            if _LABEL.fullmatch(path.name.removeprefix(f"{self.name}-").removesuffix("-state")):
                yield path

    def _seal(self, partial: Path, position: Position, extra: Mapping[str, Any]) -> None:
        files = {}
        for file in sorted(partial.iterdir()):
            _sync(file)
            files[file.name] = sha256(file)
        index = {"schema": SCHEMA, "position": vars(position), "extra": dict(extra), "settings": self.settings}
        text = json.dumps({**index, "files": files}, indent=2)
        (partial / INDEX).write_text(text, encoding="utf-8")
        _sync(partial / INDEX)
        _sync(partial)


def read_state(path: Path) -> State:
    """A state whose files are what its index says. Raises UserError: what is missing, damaged or unknown."""
    remedy = "delete the folder to go on from the one before"
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a training state, found no readable {INDEX} ({remedy})") from error
    if index.get("schema") != SCHEMA:
        raise UserError(f"{path}: expected schema {SCHEMA}, found {index.get('schema')} ({remedy})")
    for name, digest in index["files"].items():
        file = path / name
        if not file.is_file() or sha256(file) != digest:
            raise UserError(f"{file}: {'damaged' if file.is_file() else 'missing'}, the state is not whole ({remedy})")
    return State(path, Position(**index["position"]), index["extra"], index["settings"])


def check_settings(state: State, settings: Mapping[str, Any]) -> None:
    """Raises UserError naming everything that differs between a state's settings and these."""
    now = json.loads(json.dumps(dict(settings), default=str))
    keys = sorted(key for key in state.settings.keys() | now.keys() if state.settings.get(key) != now.get(key))
    if keys:
        changes = ", ".join(f"{key} {state.settings.get(key)} → {now.get(key)}" for key in keys)
        raise UserError(
            f"{state.path}: made with other settings: {changes}"
            " (start again with them as they were, or without --resume and with --overwrite)"
        )


def _position(path: Path) -> Position:
    try:
        return Position(**json.loads((path / INDEX).read_text(encoding="utf-8"))["position"])
    except (OSError, ValueError, KeyError, TypeError):
        return Position(-1)  # damaged: the first to go


def _load(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def _replace(source: Path, target: Path) -> None:
    """A folder cannot be renamed onto another: the older one steps aside until the new one is there."""
    aside = target.with_name(f".{target.name}.replaced")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(target, aside)
    os.rename(source, target)
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    """First out of sight, then away: a process killed in between leaves no half state under its name."""
    aside = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
    shutil.rmtree(aside)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
