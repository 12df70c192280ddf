"""`musubi-ext demo`: run the chain, or go on where it was interrupted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from musubi_ext.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from musubi_ext.demo.options import Layout
    from musubi_ext.demo.stages import Demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `demo`."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="everything (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="start over: remove what an earlier demo left in --out")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what is done already, do nothing")
    parser.add_argument("--seed", type=int, default=42, help="of training and of the videos (%(default)s)")
    parser.add_argument("--scenes", type=int, default=24, help="held-out scenes to be judged on (%(default)s)")
    parser.add_argument("--clips", type=int, default=200, help="clips to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=450, help="training steps of each expert (%(default)s)")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters (%(default)s)")
    parser.add_argument("--sampler_steps", type=int, default=12, help="denoising steps of a video (%(default)s)")
    parser.add_argument(
        "--shapes",
        default="known",
        choices=("known", "unseen"),
        help="held-out subjects: new ones of known kinds, or kinds never trained on (%(default)s)",
    )
    parser.add_argument(
        "--base", default="pocket-i2v", metavar="DIR", help="pipeline folder of the pocket's layout (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run what is not done yet and print the report; returns 0. Raises UserError, KeyboardInterrupt."""
    from rich.console import Console

    from musubi_ext.demo.chain import CHAIN
    from musubi_ext.demo.options import EXPERIMENT, Layout, Options
    from musubi_ext.demo.report import print_report
    from musubi_ext.demo.stages import Demo
    from musubi_ext.pipeline.runs import StepRuns
    from musubi_ext.pipeline.stages import run_stages
    from musubi_ext.pipeline.stopping import stoppable

    options, layout = Options.parse(args), Layout(args.out)
    console = Console()
    _check_folder(layout)
    if args.dry_run:
        _print_plan(Demo(options, layout, console), fresh=args.fresh)
        return 0
    with stoppable():
        try:
            if args.fresh:
                remove_outputs(layout)
            _mark(layout)
            with StepRuns(layout.tracking_uri, layout.stamps, name="demo", experiment=EXPERIMENT) as runs:
                run_stages(CHAIN, Demo(options, layout, console, runs))
        except KeyboardInterrupt:
            console.print(f"stopped: finished stages are kept in {layout.root}, start again to go on", markup=False)
            raise
    print_report(json.loads(layout.summary.read_text(encoding="utf-8")), layout, console)
    return 0


def remove_outputs(layout: Layout) -> None:
    """Remove what a demo made in its folder, and nothing else; links are removed, not followed."""
    from musubi_ext.pipeline.stages import remove

    for name in layout.OWNED:
        remove(layout.root / name)
    layout.marker.unlink(missing_ok=True)


def _check_folder(layout: Layout) -> None:
    """Raises UserError for a folder with contents that no demo made: they are neither removed nor mixed with ours."""
    if layout.root.is_dir() and not layout.marker.is_file() and any(layout.root.iterdir()):
        raise UserError(f"--out {layout.root}: not empty, and no demo made it ({layout.marker.name} is not there): "
                        "give a new folder")  # fmt: skip


def _mark(layout: Layout) -> None:
    from musubi_ext import __version__
    from musubi_ext.storage import write_json

    if not layout.marker.is_file():
        write_json(layout.marker, {"made_by": "musubi-ext demo", "version": __version__})


def _print_plan(demo: Demo, *, fresh: bool) -> None:
    from musubi_ext.demo.chain import CHAIN
    from musubi_ext.pipeline.stages import finished

    done = {} if fresh else finished(CHAIN, demo)
    _say(demo.console, f"folder   {demo.layout.root}" + ("  (its demo would be removed first)" if fresh else ""))
    for stage in CHAIN:
        state = f"done ({done[stage.name]:.1f} s)" if stage.name in done else "to do"
        _say(demo.console, f"{stage.name:8} {state:14} {stage.what(demo.options)}")
        _say(demo.console, f"{'':23} → {', '.join(str(path) for path in stage.outputs(demo.layout))}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
