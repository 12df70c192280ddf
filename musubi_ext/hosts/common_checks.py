"""What can be wrong with flags on either host."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from musubi_ext.errors import Problems
from musubi_ext.schedule.bands import parse_emphasis
from musubi_ext.schedule.plan import Phase
from musubi_ext.schedule.timesteps import density


def check_common(args: Namespace, problems: Problems) -> None:
    """Record unknown densities, contradicting ranges, emphasis on bands that are none, previews without prompts."""
    problems.collect(lambda: _density(args))
    if args.full_range and (args.min_timestep is not None or args.max_timestep is not None):
        problems.add("--full_range", "contradicts --min_timestep and --max_timestep", "leave one of them out")
    if args.band_emphasis:
        problems.collect(lambda: parse_emphasis(args.band_emphasis))
        if args.weighting_scheme != "none":
            problems.add("--band_emphasis", "does not go together with --weighting_scheme", "leave one of them out")
    for flag in ("preview_every_n_epochs", "preview_at_end"):
        if getattr(args, flag) not in (None, "auto", "off") and not args.sample_prompts:
            problems.add(f"--{flag}", "needs prompts", "add --sample_prompts FILE")


def in_order(phases: list[Phase], args: Namespace) -> list[Phase]:
    """The phases as `--experts` orders them; high first unless it says low,high."""
    return phases[::-1] if args.experts == "low,high" else phases


def plan_options(args: Namespace, name: str) -> Any:
    """The arguments in the words of `schedule.plan.PlanOptions`; `name` is the pair's."""
    options = Namespace(**vars(args))
    options.output_name = name
    options.experts = args.experts if args.experts in ("high", "low") else "both"
    if args.full_range:
        options.min_timestep, options.max_timestep = 0.0, 1000.0
    return options


def _density(args: Namespace) -> None:
    density(
        args.timestep_sampling,
        shift=args.discrete_flow_shift,
        sigmoid_scale=args.sigmoid_scale,
        logit_mean=args.logit_mean,
        logit_std=args.logit_std,
        latent_hw=(8, 8),
    )
