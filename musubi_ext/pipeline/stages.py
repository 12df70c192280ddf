"""A chain of stages that each leave a stamp: a finished stage is repeated only when something it depends on changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from musubi_ext import __version__
from musubi_ext.locks import locked
from musubi_ext.storage import write_json


class Runs(Protocol):
    """Who is told of each stage: `pipeline.runs.StepRuns`, or nobody."""

    def step(self, name: str, key: str, inputs: Mapping[str, Any]) -> AbstractContextManager[str | None]:
        """Around a stage that runs; gives the id of its run, if it has one."""

    def skipped(self, name: str, key: str, stamp: Mapping[str, Any]) -> None:
        """A stage was done before, as its stamp says."""


class Places(Protocol):
    """The folder of a chain."""

    @property
    def stamps(self) -> Path:
        """STAGE.json: a finished stage."""


class Work(Protocol):
    """What a stage is given: what was asked for, where it lies, the terminal, and who is told."""

    @property
    def options(self) -> Any: ...

    @property
    def layout(self) -> Any: ...

    @property
    def console(self) -> Console: ...

    @property
    def runs(self) -> Any: ...


def _always(_work: Any, _result: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """One link of the chain.

    `after` names the stages whose keys it builds on; `inputs` gives what it depends on itself, asked when its turn has
    come. `outputs` and `store` must be there for it to count as finished. Before it runs with other inputs than before,
    `outputs` are removed; `store` stays, for it holds what belongs to others too. What `run` returns stands in the
    stamp; `sound` says, of what an earlier run returned, whether it still holds.
    """

    name: str
    after: tuple[str, ...]
    what: Callable[[Any], str]
    inputs: Callable[[Any], Mapping[str, Any]]
    outputs: Callable[[Any], tuple[Path, ...]]
    run: Callable[[Any], Mapping[str, Any] | None]
    store: Callable[[Any], tuple[Path, ...]] = lambda _: ()
    sound: Callable[[Any, Mapping[str, Any]], bool] = _always


def later(module: str, function: str) -> Callable[..., Any]:
    """The function of a module, imported when it is called: a plan is printed without loading a framework."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(module), function)(*arguments)

    return call


def key_of(stage: Stage, inputs: Mapping[str, Any], before: Mapping[str, str]) -> str:
    """SHA-256 of all that decides a stage's outputs: versions, its inputs, the keys of stages `before` it builds on."""
    made_with = [__version__, version("torch"), version("diffusers")]
    content = [stage.name, made_with, dict(inputs), [before[name] for name in stage.after]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def finished(stages: Sequence[Stage], work: Work) -> dict[str, float]:
    """Stages that need not be repeated, with the seconds they took, as far as one can say before any of them runs."""
    keys: dict[str, str] = {}
    done: dict[str, float] = {}
    for stage in stages:
        keys[stage.name] = key_of(stage, stage.inputs(work.options), keys)
        if (seconds := _ended(stage, keys[stage.name], work, done)) is not None:
            done[stage.name] = seconds
    return done


def run_stages(stages: Sequence[Stage], work: Work) -> None:
    """Run what is not finished, in order; each stage is stamped when it has ended well.

    Raises UserError when another process does so in the same folder.
    """
    stamps = work.layout.stamps
    with locked(stamps, f"{stamps.parent}: another run is at work in this folder (wait for it, or take another)"):
        if any(stage.after for stage in stages):
            _forget(stages, work)
        keys: dict[str, str] = {}
        done: dict[str, float] = {}
        for number, stage in enumerate(stages, start=1):
            inputs = stage.inputs(work.options)
            key = keys[stage.name] = key_of(stage, inputs, keys)
            title = f"\\[{number}/{len(stages)}] [bold]{stage.name}[/bold]: {stage.what(work.options)}"
            if (before := _ended(stage, key, work, done)) is not None:
                done[stage.name] = before
                work.console.print(f"{title} - done before ({before:.1f} s)", highlight=False, soft_wrap=True)
                work.runs.skipped(stage.name, key, read_stamp(work.layout, stage.name))
                continue
            work.console.print(title, highlight=False, soft_wrap=True)
            seconds = _run(stage, key, inputs, work)
            work.console.print(f"      {seconds:.1f} s", highlight=False)


def _forget(stages: Sequence[Stage], work: Work) -> None:
    """A stage that builds on one to be repeated must not count as finished should we be stopped before its turn."""
    done = finished(stages, work)
    for stage in stages:
        stamp = read_stamp(work.layout, stage.name)
        if stage.name not in done and "seconds" in stamp:
            write_json(stamp_path(work.layout, stage.name), {"stage": stage.name, "key": stamp.get("key")})


def _ended(stage: Stage, key: str, work: Work, done: Mapping[str, float]) -> float | None:
    """The seconds of a stage that was finished with this key, and still is; None for any other."""
    stamp = read_stamp(work.layout, stage.name)
    if stamp.get("key") != key or "seconds" not in stamp or not all(name in done for name in stage.after):
        return None
    there = all(path.exists() for path in (*stage.outputs(work.layout), *stage.store(work.layout)))
    return float(stamp["seconds"]) if there and stage.sound(work, stamp.get("result") or {}) else None


def _run(stage: Stage, key: str, inputs: Mapping[str, Any], work: Work) -> float:
    """Run one stage; returns its seconds, those of earlier tries that were interrupted included."""
    path, before = stamp_path(work.layout, stage.name), read_stamp(work.layout, stage.name)
    if before.get("key") != key:
        before = {}
        for output in stage.outputs(work.layout):
            remove(output)
    stamp, spent = {"stage": stage.name, "key": key}, float(before.get("spent", 0.0))
    write_json(path, {**stamp, "spent": spent})  # begun: what an interruption leaves behind belongs to this key
    started = time.perf_counter()
    with work.runs.step(stage.name, key, inputs) as run_id:
        try:
            result = stage.run(work)
        except (KeyboardInterrupt, SystemExit):
            write_json(path, {**stamp, "spent": round(spent + time.perf_counter() - started, 3)})
            raise
        seconds = spent + time.perf_counter() - started
        told = {"run": run_id, "result": dict(result) if result else None}
        kept = {name: value for name, value in told.items() if value is not None}
        write_json(path, {**stamp, "seconds": round(seconds, 3), **kept})
    return seconds


def read_stamp(layout: Places, name: str) -> dict[str, Any]:
    """The stamp of a stage, with `seconds` if it has ended; empty when there is none, or none that can be read."""
    try:
        return dict(json.loads(stamp_path(layout, name).read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def stamp_path(layout: Places, name: str) -> Path:
    """Where a stage's stamp lies."""
    return layout.stamps / f"{name}.json"


def remove(path: Path) -> None:
    """A file or a folder, if it is there; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
