"""What the benchmarks share: tables between markers of a Markdown file, intervals in words, the machine in words."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from musubi_ext.errors import UserError
from musubi_ext.storage import write_text


def insert(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME:start -->` and `<!-- NAME:end -->`. Raises UserError without markers."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    old = path.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(old):
        raise UserError(f"{path}: expected the markers {start} and {end}, found none")
    write_text(path, pattern.sub(lambda _: f"{start}\n{text}\n{end}", old))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(value: Mapping[str, float], digits: int, unit: str = "") -> str:
    """`1.30 [1.20, 1.41]`."""
    median, low, high = (f"{value[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median}{unit} [{low}, {high}]"


def machine() -> str:
    """`2 CPU cores (x86_64), 1 torch thread, torch 2.13.0+cpu`: enough to read a figure by, no host's name."""
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    return f"{cores} CPU cores ({platform.machine()}), {threads} torch thread(s), torch {torch.__version__}"
