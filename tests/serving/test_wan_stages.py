"""The stages, one after the other, against one call of the pipeline: the same frames, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.generation.circle_rotate import CircleRotate
from serving.engine import Engine
from serving.making.content_cache import ContentCache
from serving.making.levers import Levers
from serving.making.pair_slot import PairSlot
from serving.making.request import JobRequest
from serving.making.stages import StageStore
from serving.making.wan_stages import Settings, decode, denoise, encode, steps_done
from serving.making.work import Work


def frames_of(engine: Engine, job: JobRequest, folder: Path) -> np.ndarray:
    """A job's frames before they become an mp4."""
    request = job.generation(engine.adapters.defaults(engine.adapters.resolve("none")))
    work = Work(
        engine.pipeline, engine.cache, engine.config, job, request, "key",
        lambda _: None, lambda: False, StageStore(folder),
    )  # fmt: skip
    return work.run(request).frames


@pytest.fixture(scope="module")
def rotate(tiny_pipeline: Path) -> CircleRotate:
    return CircleRotate(tiny_pipeline)


def plain(rotate: CircleRotate, job: JobRequest) -> np.ndarray:
    """The same job by one call of the pipeline."""
    return rotate.run(job.generation({})).frames


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"last": 2, "seed": 11},
        {"guidance_scale": 3.0, "guidance_scale_2": 2.0, "negative_prompt": "a wall"},
        {"guidance_scale": 3.0, "guidance_scale_2": 1.0},
        {"num_inference_steps": 1},
        {"num_inference_steps": 9, "flow_shift": 1.0, "last": 3, "num_frames": 9},
    ],
)
def test_stages_give_the_bits_of_one_call(
    tiny_engine: Engine, rotate: CircleRotate, make_job: Callable[..., JobRequest], tmp_path: Path, fields: Any
) -> None:
    job = make_job(**fields)
    assert np.array_equal(frames_of(tiny_engine, job, tmp_path), plain(rotate, job))


def test_pair_and_its_strengths_give_the_bits_of_one_call(
    tiny_engine: Engine,
    tiny_pipeline: Path,
    make_pair: Callable[..., AdapterPair],
    make_job: Callable[..., JobRequest],
    tmp_path: Path,
) -> None:
    pair, slot = make_pair(1), PairSlot(tiny_engine.pipeline)
    rotate = CircleRotate(tiny_pipeline, pair)
    job = make_job()
    base = frames_of(tiny_engine, job, tmp_path / "base")
    for turn, (high, low) in enumerate(((1.0, 1.0), (0.3, 1.7), (1.0, 1.0), (0.0, 0.0))):
        slot.use(pair, high, low)
        made = frames_of(tiny_engine, job, tmp_path / f"{turn}")
        told = make_job(strength_high=high, strength_low=low)
        assert np.array_equal(made, plain(rotate, told))
        assert np.array_equal(made, base) == (high == low == 0.0)
    slot.use(None)
    assert np.array_equal(frames_of(tiny_engine, job, tmp_path / "without"), base)


def test_boundary_of_a_request_moves_the_hand_over(tiny_engine: Engine, make_job: Callable[..., JobRequest]) -> None:
    request, shares = make_job(num_inference_steps=8).generation({}), []
    for boundary in (0.999, 0.9, 0.01):
        settings = Settings(request, boundary, Levers())
        encoded = encode(tiny_engine.pipeline, settings, ContentCache(0))
        seen: list[int] = []
        high = denoise(tiny_engine.pipeline, "transformer", settings, encoded, seen.append)
        assert seen == list(range(1, steps_done(high) + 1))
        denoise(tiny_engine.pipeline, "transformer_2", settings, {**encoded, **high}, seen.append)
        assert seen == list(range(1, 9))
        shares.append(steps_done(high))
    assert shares == [1, 3, 8]


def test_expert_without_steps_passes_the_latents_on(tiny_engine: Engine, make_job: Callable[..., JobRequest]) -> None:
    pipeline, settings = tiny_engine.pipeline, Settings(make_job().generation({}), 0.001, Levers())
    encoded = encode(pipeline, settings, ContentCache(0))
    high = denoise(pipeline, "transformer", settings, encoded, lambda _: None)
    low = denoise(pipeline, "transformer_2", settings, {**encoded, **high}, lambda _: None)
    assert torch.equal(low["latents"], high["latents"])
    assert not torch.equal(high["latents"], encoded["latents"])


def test_values_that_are_no_numbers_are_an_error(tiny_engine: Engine) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        decode(tiny_engine.pipeline, torch.full((1, 16, 2, 4, 4), float("nan")))
