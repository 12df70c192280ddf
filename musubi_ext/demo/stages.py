"""A chain of stages that each leave a stamp: a finished stage is repeated only when something it depends on changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    `after` names the stages whose outputs it reads, `inputs` gives the option values it depends on itself, `outputs`
    the files and folders that must be there for it to count as finished.
    """

    name: str
    after: tuple[str, ...]
    what: Callable[[Options], str]
    inputs: Callable[[Options], Mapping[str, Any]]
    outputs: Callable[[Layout], tuple[Path, ...]]
    run: Callable[[Demo], None]


def keys(stages: Sequence[Stage], options: Options) -> dict[str, str]:
    """Stage → SHA-256 of all that decides its outputs: our version, its option values, the keys it builds on."""
    found: dict[str, str] = {}
    for stage in stages:
        inputs = [stage.name, __version__, dict(stage.inputs(options)), [found[name] for name in stage.after]]
        found[stage.name] = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return found


def finished(stages: Sequence[Stage], demo: Demo) -> dict[str, float]:
    """Stages that need not be repeated, with the seconds they took."""
    wanted, done = keys(stages, demo.options), dict[str, float]()
    for stage in stages:
        stamp = read_stamp(demo.layout, stage.name)
        complete = all(path.exists() for path in stage.outputs(demo.layout))
        if stamp.get("key") == wanted[stage.name] and complete and all(name in done for name in stage.after):
            done[stage.name] = float(stamp["seconds"])
    return done


def run_stages(stages: Sequence[Stage], demo: Demo) -> None:
    """Run what is not finished, in order; each stamp is written when its stage has ended well."""
    wanted, done = keys(stages, demo.options), finished(stages, demo)
    for stage in stages:
        if stage.name not in done:  # also the stamps of later stages: interrupted now, they must not count as finished
            _stamp_path(demo.layout, stage.name).unlink(missing_ok=True)
    for number, stage in enumerate(stages, start=1):
        title = f"\\[{number}/{len(stages)}] [bold]{stage.name}[/bold]: {stage.what(demo.options)}"
        if stage.name in done:
            demo.console.print(f"{title} - done before ({done[stage.name]:.1f} s)", highlight=False)
            continue
        demo.console.print(title, highlight=False)
        started = time.perf_counter()
        stage.run(demo)
        seconds = time.perf_counter() - started
        write_json(_stamp_path(demo.layout, stage.name), {"stage": stage.name, "key": wanted[stage.name],
                                                          "seconds": round(seconds, 3)})  # fmt: skip
        demo.console.print(f"      {seconds:.1f} s", highlight=False)


def read_stamp(layout: Layout, name: str) -> dict[str, Any]:
    """The stamp of a stage; empty when there is none, or none that can be read."""
    try:
        return dict(json.loads(_stamp_path(layout, name).read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _stamp_path(layout: Layout, name: str) -> Path:
    return layout.stamps / f"{name}.json"
