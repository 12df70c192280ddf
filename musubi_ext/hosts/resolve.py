"""From arguments to work: every check that needs no model, the folders that defaults stand for, the jobs to run."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from musubi_ext.errors import Problems, UserError
from musubi_ext.hosts.common_checks import check_common, in_order, plan_options
from musubi_ext.hosts.jobs import Job, Plan
from musubi_ext.hosts.launched import processes
from musubi_ext.hosts.optimizers import check_optimizer, key_values
from musubi_ext.hosts.own_flags import nearest
from musubi_ext.hosts.pocket_model import transformer_folder
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.pocket.config import pipeline_path
from musubi_ext.schedule.experts import find_task
from musubi_ext.schedule.plan import Phase, phases

NETWORK_MODULES = ("networks.lora_wan", "musubi_tuner.networks.lora_wan")
NETWORK_ARGS = ("loraplus_lr_ratio",)


def resolve(args: Namespace) -> Plan:
    """Check `args` and find every folder. Raises UserError with everything that is wrong, before anything is loaded."""
    problems = Problems()
    task = find_task(args.task)
    _check_flags(args, problems)
    data = problems.collect(lambda: load_dataset_config(args.dataset_config))
    pipeline = problems.collect(lambda: _pipeline(args))
    name = args.pair_name or args.output_name
    options = _plan_options(args, name)
    planned = in_order(problems.collect(lambda: phases(options)) or [], args)
    folders = [problems.collect(lambda p=phase: transformer_folder(p.dit, p.expert)) for phase in planned]  # type: ignore[misc]
    problems.raise_if_any()
    assert data is not None  # its problems would have been raised
    assert pipeline is not None
    jobs = tuple(
        Job(phase, _own(args, phase, folder, pipeline), data) for phase, folder in zip(planned, folders, strict=True)
    )
    return Plan(args, task, name, data, pipeline, jobs)


def _plan_options(args: Namespace, name: str) -> Any:
    """The arguments in the words of `schedule.plan.PlanOptions`."""
    default = _whole_pipeline(args) or pipeline_path()
    options = plan_options(args, name)
    options.dit = str(args.dit or default)
    options.dit_high_noise = str(args.dit_high_noise or default)
    return options


def _own(args: Namespace, phase: Phase, folder: Path | None, pipeline: Path) -> Namespace:
    own = Namespace(**vars(args))
    own.dit, own.t5, own.output_name, own.output_dir = (
        str(folder),
        str(pipeline),
        phase.output_name,
        str(args.output_dir),
    )
    return own


def _whole_pipeline(args: Namespace) -> Path | None:
    """The first of the given model folders that is a whole pipeline: everything not named comes from it."""
    given = (args.dit, args.dit_high_noise, args.vae, args.t5)
    return next((path for path in given if path is not None and (path / "model_index.json").is_file()), None)


def _pipeline(args: Namespace) -> Path:
    """The pipeline folder with VAE and text encoder; `--vae P/vae` and `--t5 P/text_encoder` mean P as well."""
    given = {flag: _root(flag, path) for flag, path in (("--vae", args.vae), ("--t5", args.t5)) if path is not None}
    if len({path.resolve() for path in given.values()}) > 1:
        raise UserError(
            f"--vae {args.vae}, --t5 {args.t5}: expected one pipeline folder, found two (name one of them only)"
        )
    return next(iter(given.values()), None) or _whole_pipeline(args) or pipeline_path()


def _root(flag: str, path: Path) -> Path:
    for folder in (path, path.parent):
        if (folder / "model_index.json").is_file():
            return folder
    raise UserError(f"{flag} {path}: expected a diffusers pipeline folder, found none")


def _check_flags(args: Namespace, problems: Problems) -> None:
    check_optimizer(args, problems)
    if args.network_module not in NETWORK_MODULES:
        problems.add("--network_module", f"expected {NETWORK_MODULES[0]}, found {args.network_module}")
    options = problems.collect(lambda: key_values("--network_args", args.network_args)) or {}
    for key in options:
        if key not in NETWORK_ARGS:
            problems.add(f"--network_args {key}", "the pocket host has no such option", nearest(key, NETWORK_ARGS))
    if args.weighting_scheme in ("logit_normal", "mode"):
        fix = f"use --timestep_sampling {'logit_normal' if args.weighting_scheme == 'logit_normal' else 'shift'}"
        problems.add(f"--weighting_scheme {args.weighting_scheme}", "changes only --timestep_sampling sigma", fix)
    check_common(args, problems)
    if args.mixed_precision == "fp16" and not torch.cuda.is_available():
        problems.add("--mixed_precision fp16", "needs a CUDA device, found none", "use bf16 or no")
    if processes() > 1:
        problems.add("accelerate launch", "the pocket host trains in one process", "add --num_processes 1")
    _check_numbers(args, problems)


def _check_numbers(args: Namespace, problems: Problems) -> None:
    least = {"network_dim": 1, "gradient_accumulation_steps": 1, "lr_scheduler_num_cycles": 1}
    least |= {"network_alpha": 0, "max_grad_norm": 0, "lr_warmup_steps": 0, "learning_rate": 0, "seed": 0}
    least |= {"max_data_loader_n_workers": 0}
    counts = ("save_every_n_epochs", "save_every_n_steps", "save_last_n_epochs", "save_last_n_steps")
    for name in (*counts, "save_last_n_epochs_state", "save_last_n_steps_state"):
        least |= {name: 1} if getattr(args, name) is not None else {}
    for name, bound in least.items():
        value = getattr(args, name)
        if not (bound <= value and math.isfinite(value)):
            problems.add(f"--{name}", f"expected at least {bound}, found {value}")
    if args.seed >= 2**32:
        problems.add("--seed", f"expected less than {2**32}, found {args.seed}")
