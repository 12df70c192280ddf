"""A chain of stages that each leave a stamp: a finished stage is repeated only when something it depends on changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from musubi_ext import __version__
from musubi_ext.demo.options import Layout, Options
from musubi_ext.storage import write_json


@dataclass(frozen=True)
class Demo:
    """One demo: what was asked for, where it lies, and the terminal it talks to."""

    options: Options
    layout: Layout
    console: Console


@dataclass(frozen=True)
class Stage:
    """One link of the chain.

    `after` names the stages whose outputs it reads; `inputs` gives the option values that it depends on itself.
    `outputs` and `store` must be there for it to count as finished. Before it runs with other inputs than before,
    `outputs` are removed; `store` stays, for it holds what belongs to others too.
    """

    name: str
    after: tuple[str, ...]
    what: Callable[[Options], str]
    inputs: Callable[[Options], Mapping[str, Any]]
    outputs: Callable[[Layout], tuple[Path, ...]]
    run: Callable[[Demo], None]
    store: Callable[[Layout], tuple[Path, ...]] = lambda _: ()


def keys(stages: Sequence[Stage], options: Options) -> dict[str, str]:
    """Stage → SHA-256 of all that decides its outputs: versions, its option values, the keys it builds on."""
    made_with = [__version__, version("torch"), version("diffusers")]
    found: dict[str, str] = {}
    for stage in stages:
        inputs = [stage.name, made_with, dict(stage.inputs(options)), [found[name] for name in stage.after]]
        found[stage.name] = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return found


def finished(stages: Sequence[Stage], demo: Demo) -> dict[str, float]:
    """Stages that need not be repeated, with the seconds they took."""
    wanted, done = keys(stages, demo.options), dict[str, float]()
    for stage in stages:
        stamp = read_stamp(demo.layout, stage.name)
        complete = all(path.exists() for path in (*stage.outputs(demo.layout), *stage.store(demo.layout)))
        ended_well = stamp.get("key") == wanted[stage.name] and "seconds" in stamp
        if ended_well and complete and all(name in done for name in stage.after):
            done[stage.name] = float(stamp["seconds"])
    return done


def run_stages(stages: Sequence[Stage], demo: Demo) -> None:
    """Run what is not finished, in order; each stage is stamped when it has ended well."""
    wanted, done = keys(stages, demo.options), finished(stages, demo)
    for stage in stages:
        stamp = read_stamp(demo.layout, stage.name)
        if stage.name not in done and "seconds" in stamp:  # stopped before its turn, it must not count as finished
            write_json(stamp_path(demo.layout, stage.name), {"stage": stage.name, "key": stamp.get("key")})
    for number, stage in enumerate(stages, start=1):
        title = f"\\[{number}/{len(stages)}] [bold]{stage.name}[/bold]: {stage.what(demo.options)}"
        if stage.name in done:
            demo.console.print(f"{title} - done before ({done[stage.name]:.1f} s)", highlight=False, soft_wrap=True)
            continue
        demo.console.print(title, highlight=False, soft_wrap=True)
        seconds = _run(stage, wanted[stage.name], demo)
        demo.console.print(f"      {seconds:.1f} s", highlight=False)


def _run(stage: Stage, key: str, demo: Demo) -> float:
    """Run one stage; returns its seconds, those of earlier tries that were interrupted included."""
    path, before = stamp_path(demo.layout, stage.name), read_stamp(demo.layout, stage.name)
    if before.get("key") != key:
        before = {}
        for output in stage.outputs(demo.layout):
            remove(output)
    stamp, spent = {"stage": stage.name, "key": key}, float(before.get("spent", 0.0))
    write_json(path, {**stamp, "spent": spent})  # begun: what an interruption leaves behind belongs to this key
    started = time.perf_counter()
    try:
        stage.run(demo)
    except (KeyboardInterrupt, SystemExit):
        write_json(path, {**stamp, "spent": round(spent + time.perf_counter() - started, 3)})
        raise
    seconds = spent + time.perf_counter() - started
    write_json(path, {**stamp, "seconds": round(seconds, 3)})
    return seconds


def read_stamp(layout: Layout, name: str) -> dict[str, Any]:
    """The stamp of a stage, with `seconds` if it has ended; empty when there is none, or none that can be read."""
    try:
        return dict(json.loads(stamp_path(layout, name).read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def stamp_path(layout: Layout, name: str) -> Path:
    """Where a stage's stamp lies."""
    return layout.stamps / f"{name}.json"


def remove(path: Path) -> None:
    """A file or a folder, if it is there; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
