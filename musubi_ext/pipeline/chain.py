"""The pipeline's steps in order, and what each depends on: contents, so that a file made elsewhere counts as much."""

from __future__ import annotations

from typing import Any

from musubi_ext.pipeline import contents
from musubi_ext.pipeline.settings import POCKET, RENDERED, STEPS, Settings
from musubi_ext.pipeline.stages import Stage, later

_TRAINED_BY = ("task", "output_name", "network_dim", "steps", "seed")


def chain(settings: Settings, step: str) -> tuple[Stage, ...]:
    """The stages of one of `settings.STEPS`, or of all of them: "pipeline"."""
    render = (RENDER,) if settings.dataset_config == RENDERED else ()
    stages = {"prepare": (*render, PREPARE), "train": (TRAIN,), "evaluate": (EVALUATE,), "promote": (PROMOTE,)}
    return tuple(stage for name in STEPS if step in (name, "pipeline") for stage in stages[name])


def _preparing(settings: Settings) -> dict[str, Any]:
    made_of = {"data": contents.data_set(settings), "base": contents.base(settings)}
    return made_of if settings.task == POCKET else {**made_of, "flags": contents.flags(settings)}


def _training(settings: Settings) -> dict[str, Any]:
    made_of = {"data": contents.data_set(settings), "base": contents.base(settings), "flags": contents.flags(settings)}
    return {**made_of, **{name: getattr(settings, name) for name in _TRAINED_BY}}


def _judging(settings: Settings) -> dict[str, Any]:
    judged = {"pair": contents.pair(settings), "base": contents.base(settings), **contents.gate(settings)}
    return {**judged, "device": settings.device}


def _promoting(settings: Settings) -> dict[str, Any]:
    return {**_judging(settings), "name": settings.name, "require_approval": settings.require_approval}


def _module(name: str) -> str:
    return f"{__package__}.{name}"


RENDER = Stage(
    "render",
    (),
    lambda s: f"{s.clips} clips, clean orbits of 17 frames",
    lambda s: {"clips": s.clips},
    lambda at: (at.clips, at.dataset),
    later(_module("steps"), "render"),
)
PREPARE = Stage(
    "prepare",
    (),
    lambda s: f"latents and text embeddings of {s.dataset}",
    _preparing,
    lambda _: (),
    later(_module("steps"), "prepare"),
    sound=later(_module("steps"), "prepared"),
)
TRAIN = Stage(
    "train",
    (),
    lambda s: f"both experts, {s.steps} steps each, rank {s.network_dim}, seed {s.seed}",
    _training,
    lambda at: (at.pair,),
    later(_module("steps"), "train"),
    sound=later(_module("steps"), "trained"),
)
EVALUATE = Stage(
    "evaluate",
    (),
    lambda s: f"base and pair on the suite of {s.gate}",
    _judging,
    lambda at: (at.evaluation,),
    later(_module("judging"), "evaluate"),
)
PROMOTE = Stage(
    "promote",
    (),
    lambda s: f"MLflow model {s.name}: version, candidate, gate, champion if it passes",
    _promoting,
    lambda _: (),
    later(_module("judging"), "promote"),
    sound=later(_module("judging"), "standing"),
)
