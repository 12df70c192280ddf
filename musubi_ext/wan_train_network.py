"""Train a pair of adapters: `accelerate launch -m musubi_ext.wan_train_network …` with musubi-tuner's flags and ours.

Parses, checks everything that can be checked, caches the clips that are not cached, trains each expert that is not
finished, and assembles the pair in `--output_dir`: NAME_h.safetensors, NAME_l.safetensors, NAME.pair.json.

Exit status: 0 done, 1 an expert could not be trained, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from musubi_ext.errors import UserError
from musubi_ext.hosts.arguments import parse
from musubi_ext.hosts.endings import TrainingFailed, terminable

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair
    from musubi_ext.hosts.recording import Recording
    from musubi_ext.hosts.resolve import Plan

INTERRUPTED = 130  # what a shell reports for Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    console = Console(stderr=True)
    try:
        with terminable():
            run(sys.argv[1:] if argv is None else argv, console)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except TrainingFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: finished experts and checkpoints are kept; start again to go on", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(argv: Sequence[str], console: Console) -> AdapterPair | None:
    """Train what `argv` asks for. Returns the pair, or None when one expert is missing or with `--dry_run`.

    Raises UserError for wrong input, TrainingFailed when an expert could not be trained.
    """
    args = parse(argv)
    from musubi_ext.hosts.resolve import resolve

    plan = resolve(args)
    if args.dry_run:
        from musubi_ext.hosts.report import describe

        print(describe(plan))
        return None
    return train(plan, console)


def train(plan: Plan, console: Console) -> AdapterPair | None:
    """Cache, train what is not finished, assemble the pair. As `run`."""
    from musubi_ext.hosts.assembly import assemble, both_halves, existing, settings_of
    from musubi_ext.hosts.checkpoints import is_finished, run_metadata
    from musubi_ext.hosts.phases import run_in_turn
    from musubi_ext.hosts.side_by_side import run_side_by_side
    from musubi_ext.orbits.cache import cache_dataset

    cache_dataset(plan.data, plan.pipeline, console=console)  # skips what is cached already
    settings = {job.expert: settings_of(job) for job in plan.jobs}
    finished = [job for job in plan.jobs if not plan.args.overwrite and is_finished(job.path, settings[job.expert])]
    for job in finished:
        _say(console, f"{job.expert.value}-noise expert: finished, kept as it is ({job.path})")
    jobs = [job for job in plan.jobs if job not in finished]
    if not jobs and (pair := existing(plan)) is not None:
        return pair
    metadata = {job.expert: run_metadata(settings[job.expert]) for job in jobs}
    with _recording(plan, console) as recording:
        recording.start(plan, settings)
        together = plan.args.parallel_experts and len(jobs) > 1
        (run_side_by_side if together else run_in_turn)(jobs, metadata, recording.expert, console)
        halves, reason = both_halves(plan)
        if not halves:
            trained = ", ".join(str(job.path) for job in plan.jobs)
            _say(console, f"trained: {trained}; no pair yet: {reason}")
            return None
        pair = assemble(plan, halves, recording.run_id)
        recording.finish(list(pair.files().values()))
    _say(console, f"pair: {pair.path}")
    return pair


@contextmanager
def _recording(plan: Plan, console: Console) -> Iterator[Recording]:
    """Where this run is tracked: MLflow, imported here and nowhere else in training, or nowhere with `--no_mlflow`."""
    from musubi_ext.hosts.recording import Recording

    args = plan.args
    if args.no_mlflow:
        yield Recording(None)
        return
    from musubi_ext.registry.tracking import PairTracking

    name = args.mlflow_run_name or plan.name
    with PairTracking(args.mlflow_tracking_uri, experiment=args.mlflow_experiment, run_name=name) as tracking:
        yield Recording(tracking)
    _say(console, f"tracked: {tracking.where()}")


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
