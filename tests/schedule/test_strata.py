"""Stratified quantiles: each part once before any comes again, and a resumed round goes on."""

from __future__ import annotations

import pytest
import torch

from musubi_ext.schedule.strata import Strata


def test_every_part_comes_once_in_a_round() -> None:
    torch.manual_seed(0)
    quantiles = Strata(8).draw(24)
    assert quantiles.dtype == torch.float64
    for start in (0, 8, 16):
        parts = (8 * quantiles[start : start + 8]).long()
        assert sorted(parts.tolist()) == list(range(8))


def test_a_round_that_was_broken_off_goes_on() -> None:
    torch.manual_seed(1)
    whole = Strata(5)
    whole.draw(3)
    left, generator = list(whole.state()["left"]), torch.get_rng_state()
    expected = whole.draw(9)
    again = Strata(5)
    again.load_state({"left": left})
    torch.set_rng_state(generator)
    assert torch.equal(again.draw(9), expected)


def test_one_part_is_none() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Strata(1)
