"""Every lever that can run without a GPU, on the pocket architecture: what it changes of the frames, and what not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.generation.pipeline import expert_steps, load_pipeline
from serving.adapters_live import BASE
from serving.config import ServiceConfig
from serving.engine import Engine
from serving.making import levers, wan_stages
from serving.making.content_cache import ContentCache
from serving.making.levers import Levers
from serving.making.pair_slot import PairSlot
from serving.making.request import JobRequest
from serving.making.stages import StageStore
from serving.making.step_caches import step_cache

RATIOS = {"magcache_ratios_high": (1.0,) * 4, "magcache_ratios_low": (1.0,) * 4}


def frames(pipeline: Any, job: JobRequest, chosen: Levers) -> np.ndarray:
    settings = wan_stages.Settings(job.generation({}), 0.9, chosen)
    encoded = wan_stages.encode(pipeline, settings, ContentCache(0))
    high = wan_stages.denoise(pipeline, "transformer", settings, encoded, lambda _: None)
    low = wan_stages.denoise(pipeline, "transformer_2", settings, {**encoded, **high}, lambda _: None)
    return wan_stages.decode(pipeline, low["latents"])


def apart(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference in levels of 255."""
    return float(np.abs(first.astype(float) - second).mean())


@pytest.fixture(scope="module")
def plain(tiny_pipeline: Path) -> Any:
    return load_pipeline(tiny_pipeline)


@pytest.mark.parametrize(
    ("values", "closest", "farthest"),
    [  # levels of 255 between frames with the lever and without; random weights, so "close" says little of the 14B
        ({"layerwise_casting": "bfloat16"}, 1e-4, 4.0),
        ({"layerwise_casting": "float8_e4m3fn"}, 1e-3, 25.0),
        ({"layerwise_casting": "float8_e5m2"}, 1e-3, 40.0),
        ({"group_offload": "block"}, 0.0, 0.0),
        ({"group_offload": "leaf"}, 0.0, 0.0),
        ({"vae_tile": 16}, 1e-3, 40.0),
        ({"step_cache": "first_block", "first_block_threshold": (0.9, 0.9)}, 1e-3, 40.0),
        ({"step_cache": "taylorseer", "taylorseer_warmup": (1, 1)}, 1e-3, 60.0),
        ({"step_cache": "magcache", "magcache_threshold": (0.5, 0.5), **RATIOS}, 1e-3, 40.0),
        ({"attention": "_native_math"}, 0.0, 1.0),
        ({"compile": "regional", "compile_backend": "aot_eager"}, 0.0, 1.0),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
@pytest.mark.filterwarnings("ignore")  # of torch's compiler and of diffusers' hooks: nothing of ours
def test_lever_runs_and_changes_what_it_says(
    plain: Any,
    tiny_pipeline: Path,
    make_job: Callable[..., JobRequest],
    values: dict[str, Any],
    closest: float,
    farthest: float,
) -> None:
    chosen, job = Levers(**values), make_job(num_inference_steps=12)
    pipeline = load_pipeline(tiny_pipeline)
    levers.apply(pipeline, chosen, torch.device("cpu"))
    made = frames(pipeline, job, chosen)
    assert closest <= apart(made, frames(plain, job, Levers())) <= farthest
    assert np.array_equal(made, frames(pipeline, job, chosen))  # nothing of the first video is left for the second


@pytest.mark.parametrize("kept", ["float8_e4m3fn", "bfloat16"])
def test_pair_gives_the_same_frames_first_or_swapped_in_under_casting(
    tiny_pipeline: Path, make_pair: Callable[..., AdapterPair], make_job: Callable[..., JobRequest], kept: str
) -> None:
    chosen = Levers(layerwise_casting=kept)  # type: ignore[arg-type]
    pipeline = load_pipeline(tiny_pipeline)
    levers.apply(pipeline, chosen, torch.device("cpu"))
    slot, job = PairSlot(pipeline), make_job()
    base = frames(pipeline, job, chosen)
    slot.use(make_pair(1))
    first = frames(pipeline, job, chosen)
    slot.use(make_pair(2))
    second = frames(pipeline, job, chosen)
    slot.use(make_pair(1))
    assert np.array_equal(frames(pipeline, job, chosen), first)
    slot.use(None)
    assert np.array_equal(frames(pipeline, job, chosen), base)
    assert min(apart(base, first), apart(first, second)) > 1


def test_step_cache_leaves_an_expert_as_it_was_after_an_exception(plain: Any) -> None:
    @step_cache(plain, "transformer", 4, Levers(step_cache="first_block"))
    def interrupted() -> None:
        assert plain.transformer.is_cache_enabled
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not plain.transformer.is_cache_enabled


def test_distillation_takes_few_steps_and_hands_over_at_the_boundary(
    tiny_config: Callable[..., ServiceConfig],
    tiny_pipeline: Path,
    make_pair: Callable[..., AdapterPair],
    make_job: Callable[..., JobRequest],
    tmp_path: Path,
) -> None:
    folder = make_pair(9, "fast").path.parent
    engine = Engine(tiny_config(levers={"distillation": str(folder)}))
    job = make_job(num_inference_steps=None, guidance_scale=None)
    seen: list[str] = []
    done = engine.run(
        job, version=BASE, on_step=lambda one: seen.append(f"{one.stage} {one.step}/{one.steps}"),
        cancelled=lambda: False, stage_store=StageStore(tmp_path),
    )  # fmt: skip
    high, low = expert_steps(tiny_pipeline, 4, 5.0)
    assert (high, low) == (2, 2)
    assert [one for one in seen if one.startswith(("high", "low"))] == [
        "high 0/4", "high 1/4", "high 2/4", "low 2/4", "low 3/4", "low 4/4",
    ]  # fmt: skip
    assert (done.settings["steps"], done.settings["guidance"]) == (4, 1.0)
    # a pair beside it, at any strength, leaves it switched on
    slot = PairSlot(engine.pipeline)
    slot.use(make_pair(1), 0.0, 0.0)
    both = frames(engine.pipeline, make_job(), Levers())
    slot.use(None)
    assert np.array_equal(both, frames(engine.pipeline, make_job(), Levers()))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vae_tile": 20}, "multiple of 16"),
        ({"step_cache": "magcache"}, "magcache_ratios_high and magcache_ratios_low"),
        ({"quantization": "torchao-int8", "layerwise_casting": "bfloat16"}, "choose one"),
        ({"distillation": "/nowhere/at/all"}, "is no folder"),
        ({"first_block_threshold": [0.1]}, "first_block_threshold"),
        ({"attention": "rm -rf"}, "should match pattern"),
        ({"group_offload": "block"}, "needs a GPU"),
    ],
)
def test_impossible_levers_are_refused_at_start(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ServiceConfig.of({"levers": values})


def test_attention_backend_that_is_not_here_is_named(tiny_config: Callable[..., ServiceConfig]) -> None:
    with pytest.raises(UserError, match=r"levers.attention: nosuch cannot be used here"):
        Engine(tiny_config(levers={"attention": "nosuch"}))
