"""Every draw is in its range, and the law is the host's own conditioned on the range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest, truncnorm

from musubi_ext.errors import UserError
from musubi_ext.schedule.densities import LogitNormal
from musubi_ext.schedule.experts import Expert, timestep_range
from musubi_ext.schedule.timesteps import SAMPLERS, density, sample_timesteps

HW = (90, 160)
DRAWS = 100_000


TOKENS = (HW[0] // 2) * (HW[1] // 2)


def line(x1: float, y1: float, x2: float, y2: float, x: float) -> float:
    return y1 + (y2 - y1) * (x - x1) / (x2 - x1)


SHIFTS = {
    "flux_shift": line(256, 0.5, 4096, 1.15, TOKENS),
    "flux2_shift": line(256, 0.5, 4096, 1.15, HW[0] * HW[1]),
    "qwen_shift": line(256, 0.5, 8192, 0.9, TOKENS),
    "krea2_shift": line(256, 0.5, 6400, 1.15, TOKENS),
}


def host_draw(
    name: str, n: int, rng: torch.Generator, *, shift: float, scale: float, mean: float, std: float
) -> torch.Tensor:
    """The untruncated law as musubi-tuner v0.3.4 writes it down (trainer_base.py line 566 on), in float64."""
    normal = torch.randn(n, dtype=torch.float64, generator=rng)
    if name == "uniform":
        return torch.rand(n, dtype=torch.float64, generator=rng)
    if name == "logit_normal":
        return (mean + std * normal).sigmoid()
    if name == "logsnr":
        return (-(mean + std * normal) / 2).sigmoid()
    if name == "ideogram4_shift":
        t = (0.5 * math.log(16 * HW[0] * 16 * HW[1] / 512**2) + 1.5 * normal).sigmoid()
        return t.clamp(1 - 1 / (1 + math.exp(-7.5)), 1 - 1 / (1 + math.exp(9)))
    if name.startswith("qinglong"):
        middle = host_draw(name[9:] + "_shift", n, rng, shift=shift, scale=scale, mean=mean, std=std)
        first, second = (0.79, 0.90) if name == "qinglong_flux" else (0.95, 0.95)
        choice = torch.rand(n, dtype=torch.float64, generator=rng)
        t = torch.where(choice < second, (-(mean + std * normal) / 2).sigmoid(), (-(5.36 + normal) / 2).sigmoid())
        return torch.where(choice < first, middle, t)
    t = (normal * scale).sigmoid()
    shift = math.exp(SHIFTS[name]) if name in SHIFTS else {"sigmoid": 1.0, "shift": shift}[name]
    return t * shift / (1 + (shift - 1) * t)


def rejection(name: str, low: float, high: float, seed: int, **law: float) -> np.ndarray:
    """DRAWS of the host's law by rejection."""
    rng, kept, count = torch.Generator().manual_seed(seed), [], 0
    while count < DRAWS:
        t = host_draw(name, 1_000_000, rng, **law)
        kept.append(t[(t >= low) & (t <= high)])
        count += len(kept[-1])
    return torch.cat(kept)[:DRAWS].numpy()


LAW = {"shift": 8.0, "scale": 1.0, "mean": -1.5, "std": 2.0}  # puts enough mass into both ranges to reject from


@pytest.mark.parametrize("expert", list(Expert))
@pytest.mark.parametrize("name", SAMPLERS)
def test_law_is_the_hosts_conditioned_on_the_range(name: str, expert: Expert) -> None:
    low, high = timestep_range(expert, 0.9)
    drawn = sample_timesteps(
        name,
        DRAWS,
        low,
        high,
        shift=LAW["shift"],
        sigmoid_scale=LAW["scale"],
        logit_mean=LAW["mean"],
        logit_std=LAW["std"],
        latent_hw=HW,
        generator=torch.Generator().manual_seed(11),
    )
    assert ks_2samp(drawn.numpy(), rejection(name, low, high, 12, **LAW)).pvalue > 0.01


def test_the_test_above_would_notice_another_law() -> None:
    """The shift of a uniform u is not the host's "shift"; the same comparison tells them apart."""
    u = np.random.default_rng(0).uniform(size=4 * DRAWS)
    t = 8 * u / (1 + 7 * u)
    assert ks_2samp(t[t >= 0.9][:DRAWS], rejection("shift", 0.9, 1.0, 12, **LAW)).pvalue < 1e-6


def test_shift_8_spends_45_percent_above_the_boundary() -> None:
    """FIELD 2.1: the share of Circle-Rotate's own draws that fall to the high-noise expert."""
    assert 1 - density("shift", shift=8.0).cdf(np.array(0.9)) == pytest.approx(0.453, abs=5e-4)


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.0), (0.0, 0.05), (0.999, 1.0), (0.99999, 0.999999)])
def test_far_tails_keep_their_law(low: float, high: float) -> None:
    """logsnr at its defaults puts 6e-6 above 0.9 and nothing a float64 CDF could see further out."""
    law = density("logsnr")
    assert isinstance(law, LogitNormal)
    u = np.linspace(0.005, 0.995, 100)
    edges = [
        (math.log(t) - math.log1p(-t)) / law.std if 0 < t < 1 else (-math.inf if t == 0 else math.inf)
        for t in (low, high)
    ]
    expected = 1 / (1 + np.exp(-law.std * truncnorm.ppf(u, *edges)))
    np.testing.assert_allclose(1 - law.truncated(u, low, high), 1 - expected, rtol=1e-8)


def test_draws_of_logsnr_above_the_boundary() -> None:
    t = sample_timesteps("logsnr", 10_000, 0.9, 1.0, generator=torch.Generator().manual_seed(3)).double().numpy()
    z = np.log(t / (1 - t)) / 0.5
    assert kstest(z, truncnorm(math.log(9) / 0.5, np.inf).cdf).pvalue > 0.01


POSITIVE = st.floats(1e-2, 50)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(SAMPLERS),
    edges=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda e: abs(e[0] - e[1]) > 1e-6),
    shift=POSITIVE,
    scale=POSITIVE,
    mean=st.floats(-10, 10),
    std=POSITIVE,
    hw=st.tuples(st.integers(2, 300), st.integers(2, 300)),
    seed=st.integers(0, 2**32),
)
def test_every_draw_is_in_range(
    name: str,
    edges: tuple[float, float],
    shift: float,
    scale: float,
    mean: float,
    std: float,
    hw: tuple[int, int],
    seed: int,
) -> None:
    low, high = sorted(edges)
    assume(name != "ideogram4_shift" or (low < 0.9998 and high > 0.0006))  # no draws beyond its clamp
    t = sample_timesteps(
        name,
        64,
        low,
        high,
        shift=shift,
        sigmoid_scale=scale,
        logit_mean=mean,
        logit_std=std,
        latent_hw=hw,
        generator=torch.Generator().manual_seed(seed),
    )
    assert t.dtype == torch.float32
    assert t.shape == (64,)
    assert all(low <= value <= high for value in t.tolist())


@settings(deadline=None)
@given(name=st.sampled_from(SAMPLERS), u=st.floats(1e-6, 1 - 1e-6), boundary=st.floats(0.05, 0.95))
def test_truncated_quantile_is_the_composition_of_cdf_and_inverse(name: str, u: float, boundary: float) -> None:
    law = density(name, shift=3.0, latent_hw=HW)
    inside = law.truncated(np.array([u]), boundary, 1.0)
    below, above = law.cdf(np.array([boundary, 1.0]))
    assert law.icdf(below + u * (above - below)) == pytest.approx(inside[0], rel=1e-6)
    assert law.icdf(law.cdf(inside)) == pytest.approx(inside, rel=1e-6)


def test_same_seed_same_draws_and_global_state_without_a_generator() -> None:
    first, again = (
        sample_timesteps("shift", 9, 0.9, 1.0, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first, again)
    torch.manual_seed(5)
    assert torch.equal(first, sample_timesteps("shift", 9, 0.9, 1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "sigma", "low": 0.9}, "musubi-tuner inverts it"),
        ({"name": "sigmas"}, "not in uniform, shift"),
        ({"name": "shift", "shift": 0.0}, "--discrete_flow_shift 0"),
        ({"name": "logsnr", "logit_std": 0.0}, "--logit_std 0"),
        ({"name": "logit_normal", "logit_mean": math.nan}, "finite mean"),
        ({"name": "sigma"}, "shift, sigmoid, logit_normal, logsnr, flux_shift, flux2_shift, qwen_shift, krea2_shift, "),
        ({"name": "sigma"}, "ideogram4_shift, qinglong_flux, qinglong_qwen"),
        ({"name": "flux_shift"}, "flux_shift: the latent's height"),
        ({"name": "qinglong_qwen"}, "qinglong_qwen: the latent's height"),
        ({"name": "ideogram4_shift", "latent_hw": (8, 8), "high": 0.0005}, "clamped to 0.000552"),
        ({"name": "ideogram4_shift", "latent_hw": (8, 8), "low": 0.9999}, "no mass where t is clamped"),
        ({"name": "qinglong_flux", "latent_hw": (8, 8), "logit_std": 0.0}, "--logit_std 0"),
        ({"name": "qinglong_qwen", "latent_hw": (8, 8), "sigmoid_scale": 0.0}, "--sigmoid_scale 0"),
        ({"name": "uniform", "low": 0.9, "high": 0.1}, "expected 0 ≤ low < high ≤ 1"),
        ({"name": "uniform", "high": 900.0}, "expected 0 ≤ low < high ≤ 1"),
        ({"name": "uniform", "low": 0.5 + 1e-12, "high": 0.5 + 2e-12}, "float32"),
        ({"name": "logit_normal", "logit_std": 1e-300, "low": 0.9}, "no mass"),
        ({"name": "logit_normal", "logit_std": 1e-300, "high": 0.1}, "no mass"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample_timesteps(n=2, **arguments)
