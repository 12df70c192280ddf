"""Our laws of t are musubi-tuner's own, drawn by its own method; and the two faults we do not share."""

from __future__ import annotations

import importlib
from argparse import ArgumentParser, Namespace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.discovery import find_host
from musubi_ext.schedule.mixtures import Mixture, qinglong
from musubi_ext.schedule.timesteps import SAMPLERS, sample_timesteps

HW = (30, 52)  # latent cells of 416×240
DRAWS, BATCH = 20_000, 1000
LAW = {"discrete_flow_shift": 8.0, "sigmoid_scale": 1.3, "logit_mean": -1.5, "logit_std": 2.0}
NAMES = [name for name in SAMPLERS if name != "logit_normal"]  # that one is a weighting scheme upstream


@pytest.fixture(scope="module")
def base(host: ModuleType) -> Any:
    """musubi-tuner's `trainer_base`."""
    return importlib.import_module("musubi_tuner.training.trainer_base")


@pytest.fixture(scope="module")
def choices(base: Any) -> list[str]:
    """What upstream's `--timestep_sampling` accepts."""
    parser: ArgumentParser = importlib.import_module("musubi_tuner.training.parser_common").setup_parser_common()
    (action,) = [action for action in parser._actions if action.dest == "timestep_sampling"]
    return list(action.choices or ())


def upstream(base: Any, name: str, n: int = DRAWS, batch: int = BATCH, **flags: Any) -> np.ndarray:
    """`n` values of t out of upstream's own method: it returns (1 − t)·latents + t·noise, and noise is 1 here."""
    torch.manual_seed(1)
    defaults = {"weighting_scheme": "none", "mode_scale": 1.29, "min_timestep": None, "max_timestep": None}
    args = Namespace(**{**defaults, **LAW, "preserve_distribution_shape": False, "timestep_sampling": name, **flags})
    scheduler = base.FlowMatchDiscreteScheduler(shift=args.discrete_flow_shift, reverse=True, solver="euler")
    latents = torch.zeros(batch, 1, 1, *HW)
    noise, trainer = torch.ones_like(latents), base.NetworkTrainer()
    call = (args, noise, latents, None, scheduler, torch.device("cpu"), torch.float32)
    drawn = [trainer.get_noisy_model_input_and_timesteps(*call)[0][:, 0, 0, 0, 0] for _ in range(n // batch)]
    return torch.cat(drawn).numpy()


def ours(name: str, low: float = 0.0, high: float = 1.0, n: int = DRAWS) -> np.ndarray:
    return sample_timesteps(
        name,
        n,
        low,
        high,
        shift=LAW["discrete_flow_shift"],
        sigmoid_scale=LAW["sigmoid_scale"],
        logit_mean=LAW["logit_mean"],
        logit_std=LAW["logit_std"],
        latent_hw=HW,
        generator=torch.Generator().manual_seed(2),
    ).numpy()


def test_every_name_of_upstream_is_ours_but_sigma(choices: list[str]) -> None:
    assert set(choices) - set(SAMPLERS) == {"sigma"}


@pytest.mark.parametrize("name", NAMES)
def test_over_the_whole_range_the_law_is_upstream_s(base: Any, choices: list[str], name: str) -> None:
    if name not in choices:
        pytest.skip(f"this musubi-tuner has no {name} yet")
    if name.startswith("qinglong") and find_host().version == "0.3.0":
        pytest.skip("v0.3.0 weighted the parts otherwise: compared below")
    assert ks_2samp(ours(name), upstream(base, name)).pvalue > 0.01


def test_v0_3_0_mixed_with_other_weights(base: Any) -> None:
    """What the docstring of `qinglong` says of it."""
    if find_host().version != "0.3.0":
        pytest.skip("of v0.3.0 alone")
    parts = qinglong("qinglong_flux", HW, LAW["sigmoid_scale"], LAW["logit_mean"], LAW["logit_std"]).parts
    u, theirs = np.random.default_rng(3).random(DRAWS), upstream(base, "qinglong_flux")
    assert ks_2samp(Mixture(parts, (0.80, 0.075, 0.125)).icdf(u), theirs).pvalue > 0.01
    assert ks_2samp(Mixture(parts, (0.79, 0.11, 0.10)).icdf(u), theirs).pvalue < 0.01


def test_upstream_s_weighting_scheme_logit_normal_is_the_mirror_image(base: Any) -> None:
    theirs = upstream(base, "sigma", weighting_scheme="logit_normal", discrete_flow_shift=1.0)
    on_its_grid = np.ceil(1000 * (1 - ours("logit_normal"))) / 1000  # it draws from 1000 noise levels
    assert ks_2samp(on_its_grid, theirs).pvalue > 0.01
    assert ks_2samp(ours("logit_normal"), theirs).pvalue < 1e-6


def test_sigma_with_a_range_trains_the_other_end(base: Any) -> None:
    """Upstream: asked for 900 to 1000, trains t = 1 to 100 of 1000. Ours: refused, with the reason."""
    theirs = upstream(base, "sigma", min_timestep=900, max_timestep=1000, discrete_flow_shift=1.0)
    assert 0 < theirs.min() < theirs.max() < 0.101
    with pytest.raises(UserError, match="musubi-tuner inverts it"):
        sample_timesteps("sigma", 1, 0.9, 1.0)


def test_without_preserving_the_shape_upstream_squeezes_the_law_into_the_range(base: Any) -> None:
    theirs = upstream(base, "shift", min_timestep=900, max_timestep=1000)
    assert ks_2samp(0.9 + 0.1 * ours("shift"), theirs).pvalue > 0.01
    kept = upstream(base, "shift", n=8 * DRAWS)
    conditioned = kept[kept >= 0.9][:DRAWS]
    assert len(conditioned) == DRAWS
    assert ks_2samp(ours("shift", 0.9, 1.0), conditioned).pvalue > 0.01
    assert ks_2samp(theirs, conditioned).pvalue < 1e-6


def test_preserving_the_shape_upstream_gives_up_outside_the_range(base: Any) -> None:
    """logsnr N(0, 1) has 6e-6 of its mass above 0.9: a thousand rejections, then a draw from anywhere."""
    flags = {"min_timestep": 900, "max_timestep": 1000, "logit_mean": 0.0, "logit_std": 1.0}
    theirs = upstream(base, "logsnr", n=5, batch=1, preserve_distribution_shape=True, **flags)
    assert (theirs < 0.9).any()
    t = sample_timesteps("logsnr", DRAWS, 0.9, 1.0, generator=torch.Generator().manual_seed(4))
    assert 0.9 <= t.double().min() < t.double().max() < 1.0
