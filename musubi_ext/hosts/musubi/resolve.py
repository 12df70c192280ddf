"""From arguments to work on the musubi host: every check that needs no model, then a job per expert."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from musubi_ext.errors import Problems, UserError
from musubi_ext.hosts.common_checks import check_common, in_order, plan_options
from musubi_ext.hosts.jobs import MUSUBI, Job, Plan
from musubi_ext.hosts.launched import processes_per_expert
from musubi_ext.hosts.musubi.checks import check_caches, check_device, check_weights
from musubi_ext.hosts.musubi.discovery import find_host
from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.hosts.musubi.pocket_experts import pocket_files
from musubi_ext.orbits.config import DatasetConfig, load_dataset_config
from musubi_ext.pocket.config import pipeline_path
from musubi_ext.schedule.experts import TASKS, find_task
from musubi_ext.schedule.plan import Phase, phases

POCKET_TASK = "pocket-i2v"
REQUIRED = ("dataset_config", "output_dir", "output_name")


def resolve(args: Namespace) -> Plan:
    """Check `args` and find every file. Raises UserError with everything that is wrong, before a model is loaded."""
    problems = Problems()
    for name in REQUIRED:
        if not getattr(args, name):
            problems.add(f"--{name}", "required, not given")
    if args.task not in TASKS:
        raise UserError(
            f"--task {args.task}: has one expert, and a pair needs two (choose one of {', '.join(TASKS)}, or train it "
            "by musubi-tuner alone with --extension off)"
        )
    problems.raise_if_any()
    args.output_dir = Path(args.output_dir)
    task, host, name = find_task(args.task), find_host(), args.pair_name or args.output_name
    pipeline = _pocket(args) if args.task == POCKET_TASK else None
    _check_flags(args, problems)
    data = problems.collect(lambda: _data(args))
    planned = in_order(problems.collect(lambda: phases(plan_options(args, name))) or [], args)
    together = bool(args.parallel_experts)
    processes = problems.collect(lambda: processes_per_expert(len(planned), side_by_side=together)) or 1
    problems.raise_if_any()
    assert data is not None  # its problems would have been raised
    jobs = tuple(Job(phase, _own(args, phase), data, MUSUBI, processes) for phase in planned)
    _check_files(args, jobs, data, cached=pipeline is None, problems=problems)
    problems.raise_if_any()
    version = host.version if host.commit is None else f"{host.version} {host.commit}"
    return Plan(args, task, name, data, pipeline, jobs, MUSUBI, version)


def _data(args: Namespace) -> DatasetConfig:
    """The data set. Without an `[orbit]` table upstream reads caches alone, and the clips need not be there."""
    data = load_dataset_config(args.dataset_config, check_files=False)
    return load_dataset_config(args.dataset_config) if data.orbit_given else data


def _pocket(args: Namespace) -> Path:
    """The pocket experts as files in Wan's own layout, and the folder they are from, for VAE and text."""
    files = pocket_files(args.dit, args.dit_high_noise, args.vae or args.t5 or pipeline_path())
    args.dit, args.dit_high_noise = str(files.low), str(files.high)
    args.vae = args.t5 = str(files.pipeline)
    return files.pipeline


def _own(args: Namespace, phase: Phase) -> Namespace:
    """One phase's arguments: upstream sees one expert, never two (with two it would train one adapter for both)."""
    own = Namespace(**vars(args))
    own.dit, own.dit_high_noise, own.output_name = phase.dit, None, phase.output_name
    own.output_dir = str(args.output_dir)
    own.min_timestep, own.max_timestep = round(1000 * phase.low), round(1000 * phase.high)
    own.timestep_boundary = phase.boundary
    return own


def _check_flags(args: Namespace, problems: Problems) -> None:
    check_device(args, problems)
    check_common(args, problems)
    if args.sample_prompts and not (args.vae and args.t5):
        problems.add("--sample_prompts", "needs --vae and --t5", "name both files")


def _check_files(
    args: Namespace, jobs: tuple[Job, ...], data: DatasetConfig, *, cached: bool, problems: Problems
) -> None:
    if args.task == POCKET_TASK:
        from musubi_ext.hosts.musubi.pocket_task import register

        register(*(Path(job.args.dit) for job in jobs))
    config = import_host().WAN_CONFIGS[args.task]
    for job in jobs:
        check_weights(Path(job.args.dit), job.expert, config, args, problems)
    if cached:
        check_caches(data, problems, i2v=find_task(args.task).i2v)
