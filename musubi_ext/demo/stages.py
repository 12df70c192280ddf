"""What the demo's stages are given; the chain itself is the pipeline's (pipeline/stages.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from musubi_ext.demo.options import Layout, Options
from musubi_ext.pipeline.runs import Unrecorded


@dataclass(frozen=True)
class Demo:
    """One demo: what was asked for, where it lies, the terminal it talks to, and the runs of its stages."""

    options: Options
    layout: Layout
    console: Console
    runs: Any = field(default_factory=Unrecorded)  # or pipeline.runs.StepRuns
