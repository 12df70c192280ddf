"""Frequency bands of an error: nothing is lost between them, patterns land where they belong, emphasis is fair."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.schedule.bands import (
    band_energies,
    band_fractions,
    band_losses,
    band_names,
    band_shares,
    emphasised_loss,
    parse_emphasis,
)

SIZE = (21, 60, 104)  # of a latent of 81 frames at 832×480
POCKET = (5, 8, 8)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 17), st.integers(1, 17))


def white(size: tuple[int, int, int], seed: int = 0, dtype: torch.dtype = torch.float64, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def waves(size: tuple[int, int, int], in_time: float, in_height: float, in_width: float) -> Tensor:
    """Cosines at those shares of Nyquist along frames, height and width; 0 is constant."""
    f, h, w = (
        torch.cos(math.pi * share * (torch.arange(length, dtype=torch.float64) + 0.5))
        for share, length in zip((in_time, in_height, in_width), size, strict=True)
    )
    return (f[:, None, None] * h[:, None] * w)[None, None]


def test_the_bands_have_names_in_order() -> None:
    assert band_names() == (
        "space_low/time_low",
        "space_low/time_high",
        "space_mid/time_low",
        "space_mid/time_high",
        "space_high/time_low",
        "space_high/time_high",
    )


@settings(max_examples=60, deadline=None)
@given(size=SIZES, seed=st.integers(0, 2**32))
def test_energies_sum_to_the_mean_square(size: tuple[int, int, int], seed: int) -> None:
    error = white(size, seed) * 10 + 3  # a constant offset is energy too
    energies = band_energies(error)
    assert energies.shape == (6,)
    torch.testing.assert_close(energies.sum(), error.square().mean(), rtol=1e-12, atol=0)
    rounded = error.float()
    torch.testing.assert_close(band_energies(rounded).sum(), rounded.square().mean(), rtol=2e-6, atol=0)


@settings(max_examples=60, deadline=None)
@given(size=SIZES)
def test_losses_are_of_the_bands_that_are_there_and_average_to_the_mean_square(size: tuple[int, int, int]) -> None:
    error, fractions = white(size), band_fractions(size)
    losses, shares = band_losses(error), band_shares(error)
    there = [name for name in band_names() if fractions[name] > 0]
    assert list(losses) == list(shares) == there
    assert sum(fractions.values()) == pytest.approx(1)
    plain = float(error.square().mean())
    assert sum(fractions[name] * float(loss) for name, loss in losses.items()) == pytest.approx(plain)
    assert {name: fractions[name] * float(loss) / plain for name, loss in losses.items()} == pytest.approx(
        {name: float(share) for name, share in shares.items()}
    )


def test_one_frame_has_no_temporal_detail() -> None:
    assert list(band_losses(white((1, 8, 8)))) == [name for name in band_names() if name.endswith("time_low")]
    assert list(band_losses(white((1, 1, 1)))) == ["space_low/time_low"]


@pytest.mark.parametrize("size", [SIZE, (5, 16, 16)])
def test_white_error_is_the_same_in_every_band(size: tuple[int, int, int]) -> None:
    error = white(size, dtype=torch.float32, channels=8 if size == SIZE else 64)
    for name, loss in band_losses(error).items():
        coefficients = band_fractions(size)[name] * error.numel()
        assert float(loss) == pytest.approx(1, abs=5 * math.sqrt(2 / coefficients)), name


@pytest.mark.parametrize("size", [SIZE, (5, 8, 8), (5, 16, 12)])
@pytest.mark.parametrize(
    ("pattern", "band"),
    [
        ((0, 0, 0), "space_low/time_low"),
        ((0, 0, 1), "space_high/time_low"),
        ((0, 1, 0), "space_high/time_low"),
        ((0, 0.75, 0.75), "space_high/time_low"),
        ((0, 0, 0.5), "space_mid/time_low"),
        ((1, 0, 0), "space_low/time_high"),
        ((1, 0.5, 0), "space_mid/time_high"),
        ((1, 1, 1), "space_high/time_high"),
    ],
)
def test_a_pattern_lands_in_its_band(
    size: tuple[int, int, int], pattern: tuple[float, float, float], band: str
) -> None:
    nearest = [min(round(share * length), length - 1) / length for share, length in zip(pattern, size, strict=True)]
    assert float(band_shares(waves(size, *nearest))[band]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("band", ["space_low", "space_high"])
def test_a_pattern_off_the_grid_and_turned_lands_there_too(band: str) -> None:
    share = {"space_low": 0.17, "space_high": 0.87}[band] / math.sqrt(2)
    h, w = torch.meshgrid(torch.arange(60.0), torch.arange(104.0), indexing="ij")
    diagonal = torch.sin(math.pi * share * (h + w) + 0.3).expand(1, 1, 21, 60, 104)
    assert float(band_shares(diagonal)[f"{band}/time_low"]) > 0.98


def test_a_static_error_has_no_time_high() -> None:
    static = white((1, 8, 8)).expand(-1, -1, 5, -1, -1)
    assert max(float(share) for name, share in band_shares(static).items() if name.endswith("time_high")) < 1e-28


def test_a_ramp_does_not_leak() -> None:
    """A Fourier transform wraps around at the edge and puts 1% of it into space_high."""
    ramp = torch.arange(104, dtype=torch.float64).expand(1, 1, 5, 60, 104)
    ramp = ramp - ramp.mean()
    assert float(band_shares(ramp)["space_high/time_low"]) < 1e-5
    spectrum = torch.fft.fft(ramp[0, 0, 0, 0]).abs().square()
    assert float(spectrum[torch.fft.fftfreq(104).abs() >= 1 / 3].sum() / spectrum.sum()) > 0.01


def test_equal_weights_are_the_plain_mean_square_to_the_bit() -> None:
    prediction, target = white(POCKET, 1, torch.float32), white(POCKET, 2, torch.float32)
    plain = torch.nn.functional.mse_loss(prediction, target)
    for weight in (1.0, 7.0):
        assert torch.equal(emphasised_loss(prediction - target, dict.fromkeys(band_names(), weight)), plain)
    assert torch.equal(emphasised_loss(prediction - target, {}), plain)


def test_almost_equal_weights_are_almost_the_plain_mean_square_with_its_gradient() -> None:
    error = white(POCKET, dtype=torch.float32).requires_grad_()
    plain = error.square().mean()
    (gradient,) = torch.autograd.grad(plain, error)
    loss = emphasised_loss(error, {"space_high/time_low": 1 + 1e-12})
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, error)[0], gradient, rtol=1e-5, atol=1e-9)


WEIGHTS = {"space_high/time_low": 3.0, "space_low/time_high": 0.25}


@pytest.mark.parametrize("size", [POCKET, (1, 8, 8), (9, 30, 52)])
def test_the_mean_weight_is_one_so_white_error_keeps_its_loss(size: tuple[int, int, int]) -> None:
    fractions = band_fractions(size)
    mean = sum(fraction * WEIGHTS.get(name, 1.0) for name, fraction in fractions.items())
    error = white(size)
    expected = sum(
        WEIGHTS.get(n, 1.0) / mean * energy for n, energy in zip(fractions, band_energies(error), strict=True)
    )
    torch.testing.assert_close(emphasised_loss(error, WEIGHTS), expected)
    many = white(size, channels=256)
    assert float(emphasised_loss(many, WEIGHTS)) == pytest.approx(float(many.square().mean()), rel=0.03)


def test_the_gradient_is_the_band_s_times_its_weight() -> None:
    error = waves(POCKET, 0, 0, 7 / 8).requires_grad_()
    (gradient,) = torch.autograd.grad(emphasised_loss(error, {"space_high/time_low": 4.0}), error)
    (plain,) = torch.autograd.grad(error.square().mean(), error)
    mean = 1 + 3 * band_fractions(POCKET)["space_high/time_low"]
    torch.testing.assert_close(gradient, plain * 4 / mean)


def test_half_precision_is_reckoned_in_float32_under_autocast_too() -> None:
    error = white(POCKET, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energies = band_energies(error)
        loss = emphasised_loss(error, WEIGHTS)
    assert energies.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(energies.sum(), error.float().square().mean(), rtol=2e-6, atol=0)


def test_training_goes_on_after_a_validation_without_autograd() -> None:
    size = (3, 7, 11)  # no other test has cached its matrices
    with torch.inference_mode():
        band_losses(white(size))
    error = white(size).requires_grad_()
    emphasised_loss(error, WEIGHTS).backward()  # type: ignore[no-untyped-call]
    assert error.grad is not None


@pytest.mark.parametrize("bad", [torch.zeros(16, 5, 8, 8), torch.zeros(8, 8)])
def test_another_rank_is_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="B, C, F, H, W"):
        band_energies(bad)


def test_an_unknown_band_is_refused() -> None:
    with pytest.raises(ValueError, match="space_huge"):
        emphasised_loss(white(POCKET), {"space_huge": 2.0})


def test_emphasis_multiplies() -> None:
    assert parse_emphasis("space_high=2, time_high = 1.5") == {
        "space_low/time_low": 1.0,
        "space_low/time_high": 1.5,
        "space_mid/time_low": 1.0,
        "space_mid/time_high": 1.5,
        "space_high/time_low": 2.0,
        "space_high/time_high": 3.0,
    }
    assert parse_emphasis("space_high=2,space_high/time_low=0.5")["space_high/time_low"] == 1.0


def test_every_mistake_in_an_emphasis_is_told_at_once() -> None:
    with pytest.raises(UserError) as told:
        parse_emphasis("space_hihg=2,time_high=0,fast=3,space_low=two,space_mid,time_low=2,time_low=3,=1,space_low=inf")
    words = (
        "space_hihg=2: expected NAME=WEIGHT of a band (did you mean space_high?)",
        "time_high=0: expected a weight from 0.001 to 1000 (time_high=2",
        "fast=3: expected NAME=WEIGHT of a band (bands are space_low, space_mid",
        "space_low=two: expected a weight",
        "space_mid: expected a weight",
        "time_low=3: time_low is given twice",
        "=1: expected NAME=WEIGHT",
        "space_low=inf: expected a weight",
    )
    assert len(told.value.problems) == len(words)
    for problem, word in zip(told.value.problems, words, strict=True):
        assert problem.startswith(f"--band_emphasis {word}")
    with pytest.raises(UserError, match="expected NAME=WEIGHT"):
        parse_emphasis("")
