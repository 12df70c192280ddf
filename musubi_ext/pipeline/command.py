"""From a command line to steps that run, are skipped, or go on where they were broken off."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from musubi_ext.errors import UserError
from musubi_ext.pipeline.settings import POCKET, STEPS, Layout, Settings, add_arguments

if TYPE_CHECKING:
    from musubi_ext.pipeline.stages import Stage
    from musubi_ext.pipeline.steps import Pipeline

INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m musubi_ext.pipeline",
        description="Prepare, train, evaluate and promote a pair; what is done and unchanged is not done again.",
        allow_abbrev=False,
    )
    parser.add_argument("step", choices=(*STEPS, "pipeline"), help="one step, or all of them in order")
    add_arguments(parser)
    parser.add_argument("--mlflow_tracking_uri", metavar="URI", help="$MLFLOW_TRACKING_URI, else mlflow.db here")
    parser.add_argument("--dry_run", action="store_true", help="print what is done and what is to do, and end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 2 for a mistake or a step that failed, 130 when interrupted."""
    try:
        return run(build_parser().parse_args(argv))
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished steps are kept, start again to go on", file=sys.stderr)
        return INTERRUPTED


def run(args: argparse.Namespace) -> int:
    """Run what is not done yet; a candidate that the gate refuses is an answer. Raises UserError, KeyboardInterrupt."""
    from musubi_ext.pipeline.runs import StepRuns
    from musubi_ext.pipeline.stopping import stoppable
    from musubi_ext.registry.store import EXPERIMENT, tracking_uri

    uri = tracking_uri(args.mlflow_tracking_uri)
    layout = Layout(Path(args.output_dir))
    with stoppable(), StepRuns(uri, layout.stamps, name=f"pipeline {args.name}", experiment=EXPERIMENT) as runs:
        from musubi_ext.pipeline.chain import chain
        from musubi_ext.pipeline.stages import run_stages
        from musubi_ext.pipeline.steps import Pipeline

        settings = Settings.parse(args)
        _check_folder(layout)
        if args.step not in STEPS[:2]:
            _check_gate(settings)
        work = Pipeline(settings, Console(highlight=False), runs, uri)
        stages = chain(settings, args.step)
        if args.dry_run:
            _print_plan(work, stages)
            return 0
        _mark(layout)
        run_stages(stages, work)
    return 0


def _check_folder(layout: Layout) -> None:
    """Raises UserError for a folder with contents that no pipeline made: they are not mixed with ours."""
    if layout.root.exists() and not layout.root.is_dir():
        raise UserError(f"--output_dir {layout.root}: expected a folder, found a file (give another folder)")
    if layout.root.is_dir() and not layout.marker.is_file() and any(layout.root.iterdir()):
        raise UserError(f"--output_dir {layout.root}: not empty, and no pipeline made it ({layout.marker.name} is not "
                        "there): give a new folder")  # fmt: skip


def _check_gate(settings: Settings) -> None:
    """Raises UserError now for a gate that would be refused after the training."""
    from musubi_ext.registry.gate_file import Gate

    if not Gate.load(settings.gate).written and settings.task != POCKET:
        raise UserError(
            f"{settings.gate}: no [suite], and the default one is the pocket's: {settings.task} needs its own"
        )


def _mark(layout: Layout) -> None:
    from musubi_ext import __version__
    from musubi_ext.storage import write_json

    if not layout.marker.is_file():
        write_json(layout.marker, {"made_by": "musubi_ext.pipeline", "version": __version__})


def _print_plan(work: Pipeline, stages: Sequence[Stage]) -> None:
    from musubi_ext.pipeline.stages import finished

    done, changing = finished(stages, work), False
    for stage in stages:
        state = "to do" if stage.name not in done else "perhaps" if changing else f"done ({done[stage.name]:.1f} s)"
        changing = changing or stage.name not in done  # what reads it is done only if it comes out as it was
        work.console.print(f"{stage.name:8} {state:14} {stage.what(work.options)}", markup=False, soft_wrap=True)
