"""Mixtures of logit-normal laws inside a range, and the law with an atom at each end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from musubi_ext.errors import UserError
from musubi_ext.schedule.densities import LogitNormal, ideogram4_shifted
from musubi_ext.schedule.mixtures import Mixture
from musubi_ext.schedule.timesteps import density

HW = (90, 160)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.9, 1.0), (0.0, 0.05), (0.99999, 0.999999), (1e-9, 1e-8)])
def test_a_mixture_of_one_law_with_itself_is_that_law(low: float, high: float) -> None:
    law, u = LogitNormal(-1.0, 0.5), np.linspace(0.0, 1.0, 101)
    mixed, plain = Mixture((law, law), (0.3, 0.7)).truncated(u, low, high), law.truncated(u, low, high)
    np.testing.assert_allclose(mixed, plain, rtol=1e-9)
    np.testing.assert_allclose(1 - mixed, 1 - plain, rtol=1e-9)


def test_the_mixtures_quantiles_solve_its_cdf() -> None:
    law = density("qinglong_flux", latent_hw=HW, logit_mean=-1.5, logit_std=2.0)
    for low, high in ((0.0, 0.9), (0.9, 1.0), (0.02, 0.03)):
        u = np.linspace(0.0, 1.0, 1001)
        t = law.truncated(u, low, high)
        below, above = law.cdf(np.array([low, high]))
        np.testing.assert_allclose((law.cdf(t) - below) / (above - below), u, atol=1e-12)
        assert (np.diff(t) > 0).all()


def test_far_from_all_but_one_part_the_mixture_is_that_part() -> None:
    wide, narrow, u = LogitNormal(0.0, 1.0), LogitNormal(0.0, 0.1), np.linspace(0.0, 1.0, 11)
    np.testing.assert_allclose(
        Mixture((narrow, wide), (1 - 1e-9, 1e-9)).truncated(u, 0.999, 1.0), wide.truncated(u, 0.999, 1.0), rtol=1e-12
    )


def test_what_ideogram4_clamps_is_an_atom_at_each_end() -> None:
    law = ideogram4_shifted((2, 2))  # 32×32 pixels: mean −2.77, so 8e-4 of the mass is below the clamp
    assert 1 / (1 + math.exp(7.5)) == pytest.approx(law.first, rel=1e-12)
    assert 1 / (1 + math.exp(-9)) == pytest.approx(law.last, rel=1e-12)
    atom = float(law.cdf(np.array(law.first)))
    assert 7e-4 < atom < 9e-4
    assert law.cdf(np.array([law.first * 0.999, law.last * 0.9999, law.last])).tolist()[::2] == [0.0, 1.0]
    u = np.array([0.5, 0.999, 1.001, 2.0]) * atom
    assert (law.truncated(u, 0.0, 1.0) == law.first).tolist() == [True, True, False, False]
    half = float(law.cdf(np.array(0.1)))  # the atom's share grows when the range shrinks around it
    assert (law.truncated(u / half, 0.0, 0.1) == law.first).tolist() == [True, True, False, False]
    assert (law.truncated(u, 0.0, law.first) == law.first).all()
    assert (law.truncated(u, law.last, 1.0) == law.last).all()
    assert (
        law.truncated(np.linspace(0, 1, 5), 0.01, 0.02) == law.law.truncated(np.linspace(0, 1, 5), 0.01, 0.02)
    ).all()


def test_a_range_that_no_part_reaches_is_refused() -> None:
    with pytest.raises(UserError, match="no mass where every part of the mixture is elsewhere"):
        Mixture((LogitNormal(0.0, 1e-300), LogitNormal(1.0, 1e-300)), (0.5, 0.5)).truncated(np.array([0.5]), 0.9, 1.0)
