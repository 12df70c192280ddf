"""Train a pair of adapters: `accelerate launch -m musubi_ext.wan_train_network …` with musubi-tuner's flags and ours.

Parses, checks everything that can be checked, caches the clips that are not cached (pocket task), trains each expert
that is not finished, and assembles the pair in `--output_dir`: NAME_h.safetensors, NAME_l.safetensors, NAME.pair.json.

Exit status: 0 done, 1 an expert could not be trained, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console

from musubi_ext.errors import UserError
from musubi_ext.hosts.endings import TrainingFailed
from musubi_ext.termination import terminable

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair
    from musubi_ext.hosts.jobs import Plan
    from musubi_ext.hosts.recording import Recording
    from musubi_ext.pair_previews import PairPreviews

INTERRUPTED = 130  # what a shell reports for Ctrl-C
SYSTEM_METRICS_SECONDS = 10.0  # between two samples of processor, memory and GPUs


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
        print("interrupted: finished experts, checkpoints and states are kept; start again to go on", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(argv: Sequence[str], console: Console) -> AdapterPair | None:
    """Train what `argv` asks for. Returns the pair, or None when one expert is missing or with `--dry_run`.

    Raises UserError for wrong input, TrainingFailed when an expert could not be trained.
    """
    from musubi_ext.hosts import choice
    from musubi_ext.hosts.launched import check_launch

    check_launch()
    args = choice.parse(argv)
    if args.extension == "off":
        from musubi_ext.hosts.musubi.plain import train_plain

        train_plain(args)
        return None
    plan = choice.resolve(args)
    if getattr(args, "show_timesteps", None):
        from musubi_ext.hosts.musubi.trainer import show_timesteps

        show_timesteps(plan)
        return None
    if args.dry_run:
        from musubi_ext.hosts.report import describe

        print(describe(plan))
        return None
    return train(plan, console)


def train(plan: Plan, console: Console) -> AdapterPair | None:
    """Cache, train what is not finished, assemble the pair. As `run`."""
    from musubi_ext.hosts.launched import end_processes, is_main, main_process_first
    from musubi_ext.hosts.output_lock import locked

    try:
        with locked(plan.args.output_dir) if is_main() else nullcontext():
            with main_process_first():
                _cache(plan, console)
            return _train(plan, console)
    finally:
        end_processes()


def _train(plan: Plan, console: Console) -> AdapterPair | None:
    from musubi_ext.hosts.assembly import assemble, existing, missing_half
    from musubi_ext.hosts.checkpoints import is_finished, run_metadata
    from musubi_ext.hosts.launched import is_main
    from musubi_ext.hosts.phases import run_in_turn
    from musubi_ext.hosts.side_by_side import run_side_by_side

    finished = [job for job in plan.jobs if not plan.args.overwrite and is_finished(job.path, job.settings)]
    for job in finished:
        _say(console, f"{job.expert.value}-noise expert: finished, kept as it is ({job.path})")
    jobs = [job for job in plan.jobs if job not in finished]
    if not jobs and not missing_half(plan) and (pair := existing(plan)) is not None:
        return pair
    metadata = {job.expert: run_metadata(job.settings, plan.host_version) for job in jobs}
    with _recording(plan, console) as recorded:
        recorded.start(plan, finished)
        preview = _previews(plan, recorded)
        together = plan.args.parallel_experts and len(jobs) > 1
        (run_side_by_side if together else run_in_turn)(jobs, metadata, recorded.expert, console, preview)
        if not is_main():
            return None
        if reason := missing_half(plan):
            trained = ", ".join(str(job.path) for job in plan.jobs)
            _say(console, f"trained: {trained}; no pair yet: {reason}")
            return None
        pair = assemble(plan, recorded.run_id)
        recorded.finish(list(pair.files().values()))
        if preview is not None:
            preview.at_end()
    _say(console, f"pair: {pair.path}")
    return pair


def _previews(plan: Plan, recorded: Recording) -> PairPreviews | None:
    """Who makes videos with both experts; nobody without `--sample_prompts`."""
    if not plan.args.sample_prompts:
        return None
    from musubi_ext.pair_previews import PairPreviews

    return PairPreviews(plan, recorded.previewed)


@contextmanager
def _recording(plan: Plan, console: Console) -> Iterator[Recording]:
    """Where this run is tracked: MLflow, imported here and nowhere else in training, or nowhere with `--no_mlflow`.

    With `--resume auto` a broken-off run is taken up: `NAME.run.json` names it, and goes when the pair is there.
    """
    from musubi_ext.hosts.launched import is_main
    from musubi_ext.hosts.recording import Recording, RunFile

    args = plan.args
    if args.no_mlflow or not is_main():
        yield Recording(None)
        return
    from musubi_ext.registry.run_facts import device, run_tags
    from musubi_ext.registry.start import new_run_id, spool_root
    from musubi_ext.registry.store import tracking_uri
    from musubi_ext.registry.tracking import PairTracking

    file, uri = RunFile(plan), tracking_uri(args.mlflow_tracking_uri)
    known = file.read() if args.resume == "auto" else None
    asked = getattr(args, "mlflow_options", {})  # of a --log_tracker_config
    where = {"run_id": asked.get("run_id") or new_run_id(uri), "spool_directory": str(spool_root()), **(known or {})}
    file.write(uri, **where)  # before the run begins: killed at once, it is continued all the same
    try:
        tracking = PairTracking(
            uri,
            experiment=args.mlflow_experiment,
            run_name=args.mlflow_run_name or plan.name,
            resumed=known is not None,
            artifacts=asked.get("artifacts"),
            tags={**run_tags(), "device": device(), **asked.get("tags", {})},
            system_metrics=SYSTEM_METRICS_SECONDS,
            run_id=where["run_id"],
            spool_directory=where["spool_directory"],
        )
    except UserError:
        if known is None:
            file.remove()
        raise
    with tracking as runs:
        file.write(uri, runs.run_id, where["spool_directory"])
        yield Recording(runs)
        file.remove()
    _say(console, f"tracked: {runs.where()}")


def _cache(plan: Plan, console: Console) -> None:
    """Cache what is not cached, where the models are at hand that do it here."""
    if plan.pipeline is not None:
        from musubi_ext.orbits.cache.write import cache_dataset

        cache_dataset(plan.data, plan.pipeline, console=console)


def _say(console: Console, line: str) -> None:
    from musubi_ext.hosts.launched import is_main

    if is_main():
        console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
