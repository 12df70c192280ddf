"""Optimizers and learning-rate schedules by musubi-tuner's names (`NetworkTrainer.get_optimizer`, `get_lr_scheduler`).

Everything that can be wrong with the flags is found by `check_optimizer` before any model is loaded.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from musubi_ext.errors import Problems, UserError

SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
SHORT_NAMES = {
    "adamw": "torch.optim.AdamW",
    "adamw8bit": "bitsandbytes.optim.AdamW8bit",
    "adafactor": "transformers.optimization.Adafactor",
}


def check_optimizer(args: Namespace, problems: Problems) -> None:
    """Record what is wrong with the optimizer and schedule flags of `args`."""
    try:
        kind, options = optimizer_class(args.optimizer_type), key_values("--optimizer_args", args.optimizer_args)
        _check_options(kind, options, problems)
    except UserError as error:
        problems.found += error.problems
    if args.lr_scheduler not in SCHEDULES:
        problems.add("--lr_scheduler", f"expected one of {', '.join(SCHEDULES)}, found {args.lr_scheduler}")
    elif args.lr_scheduler == "constant" and args.lr_warmup_steps:
        problems.add("--lr_warmup_steps", "a constant rate has no warm-up", "use --lr_scheduler constant_with_warmup")


def _check_options(kind: type[Optimizer], options: Mapping[str, Any], problems: Problems) -> None:
    known = inspect.signature(kind).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    for key in options:
        if key not in known and not takes_any:
            problems.add(f"--optimizer_args {key}", f"{kind.__name__} has no such option", _nearest(key, known))
    if kind.__module__.startswith("transformers") and options.get("relative_step", True):  # it has Adafactor alone
        problems.add(
            "--optimizer_type adafactor",
            "sets its own learning rate while relative_step is on",
            "add --optimizer_args relative_step=False scale_parameter=False",
        )


def optimizer_class(name: str) -> type[Optimizer]:
    """adamw, adamw8bit, adafactor (any case), a class of torch.optim, or module.Class.

    Raises UserError when there is no such class, or when it is an 8-bit one and there is no CUDA device.
    """
    path = SHORT_NAMES.get(name.lower(), name)
    if "8bit" in path.lower() and not torch.cuda.is_available():
        raise UserError(f"--optimizer_type {name}: 8-bit optimizers need a CUDA device, found none (use adamw)")
    module_name, _, attribute = path.rpartition(".")
    try:
        module = importlib.import_module(module_name or "torch.optim")
    except ImportError as error:
        remedy = "pip install 'musubi-ext[gpu]'" if module_name.startswith("bitsandbytes") else "install it first"
        raise UserError(f"--optimizer_type {name}: cannot import {module_name}: {error} ({remedy})") from error
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        hint = _nearest(attribute, [*SHORT_NAMES, *dir(module)])
        raise UserError(f"--optimizer_type {name}: expected an optimizer of {module.__name__}, found none ({hint})")
    return found


def build_optimizer(args: Namespace, parameters: Iterable[Any]) -> Optimizer:
    """The optimizer of `args` over parameters or parameter groups."""
    options = key_values("--optimizer_args", args.optimizer_args)
    optimizer: Optimizer = optimizer_class(args.optimizer_type)(parameters, lr=args.learning_rate, **options)  # type: ignore[call-arg]
    return optimizer


def build_schedule(args: Namespace, optimizer: Optimizer) -> Any:
    """The schedule of `args` over `args.max_train_steps` updates; a warm-up below 1 is a share of them."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=warmup_steps(args.lr_warmup_steps, args.max_train_steps),
        num_training_steps=args.max_train_steps,
        num_cycles=args.lr_scheduler_num_cycles,
        power=args.lr_scheduler_power,
    )


def warmup_steps(value: float, total: int) -> int:
    """A whole number of steps as it is; a float is a share of `total` (musubi-tuner's `_int_or_float`)."""
    return int(value * total) if isinstance(value, float) else value


def key_values(flag: str, words: Iterable[str] | None) -> dict[str, Any]:
    """["weight_decay=0.01", "betas=0.9,0.999"] → Python values. Raises UserError naming every word that is none."""
    values, problems = {}, Problems()
    for word in words or ():
        key, _, text = word.partition("=")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            problems.add(f"{flag} {word}", "expected key=value with a Python literal", "e.g. weight_decay=0.01")
    problems.raise_if_any()
    return values


def _nearest(word: str, known: Iterable[str]) -> str:
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, 1)
    return f"did you mean {names[close[0]]}?" if close else "see the optimizer's documentation"
