"""An interrupted training of an expert goes on where it was, to the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from musubi_ext.pocket import train_experts
from musubi_ext.pocket.config import TINY
from musubi_ext.pocket.latents import LAST_EVERY, LatentCorpus
from musubi_ext.schedule.experts import Expert


@pytest.fixture
def data() -> LatentCorpus:
    rng = np.random.default_rng(0)
    arrays = {
        "latents": rng.standard_normal((9, 16, 5, 8, 8)).astype(np.float16),
        "first": rng.standard_normal((9, 16, 5, 8, 8)).astype(np.float16),
        "both": rng.standard_normal((3, 16, 5, 8, 8)).astype(np.float16),
    }
    return LatentCorpus(arrays, torch.randn(9, 24, 64, generator=torch.Generator().manual_seed(0)), clip_frames=17)


def train(data: LatentCorpus, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    train_experts._train(Expert.HIGH, data, torch.zeros(24, 64), folder, steps=5, size=TINY)
    return torch.load(folder / "expert_high.pt", weights_only=True)


def test_interrupted_training_ends_with_the_same_bits(
    data: LatentCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_experts, "KEEP_EVERY", 2)
    whole = train(data, tmp_path / "whole")
    loss, calls = train_experts.flow_loss, iter(range(10))

    def interrupted_at_the_fourth_step(*args: object) -> torch.Tensor:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return loss(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(train_experts, "flow_loss", interrupted_at_the_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "parts")
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["expert_high.state"]
    monkeypatch.setattr(train_experts, "flow_loss", loss)
    parts = train(data, tmp_path / "parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["expert_high.pt"]


def test_batches_hold_both_conditions_and_lose_some_captions(data: LatentCorpus) -> None:
    batch = data.sample(np.random.default_rng(0), 400, torch.zeros(24, 64), drop=0.1)
    masks = batch.condition[:, :4, :, 0, 0]
    assert (masks[:, :, 0] == 1).all()
    both = masks[:, 3, -1] == 1
    assert 0.5 / LAST_EVERY * 0.6 < both.float().mean() < 0.5 / LAST_EVERY * 1.4
    assert masks.sum((1, 2)).unique().tolist() == [4, 5]
    dropped = (batch.text == 0).all((1, 2)).float().mean()
    assert 0.04 < dropped < 0.18
