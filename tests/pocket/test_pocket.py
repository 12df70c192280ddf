"""The pocket Wan: built from nothing by one command, loaded by the stock pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from musubi_ext.pocket import pipeline_path, random_pipeline
from musubi_ext.pocket.build import FULL, QUICK, build
from musubi_ext.pocket.config import SHIPPED, TEXT_TOKENS, TINY, build_vae
from musubi_ext.pocket.optim import MatrixMuon, cosine
from musubi_ext.pocket.text import build_text_encoder, build_tokenizer
from musubi_ext.pocket.train_text import encode, left_right_cosine, train_text_encoder
from musubi_ext.pocket.train_vae import to_input

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")  # diffusers calls itself so


def test_random_pipeline_is_reproducible_and_leaves_the_seed_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = random_pipeline(tmp_path / "a"), random_pipeline(tmp_path / "b")
    assert torch.equal(torch.rand(1), expected)
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_build_makes_a_loadable_pipeline_and_resumes(tmp_path: Path) -> None:
    from diffusers import WanImageToVideoPipeline

    report = build(tmp_path / "work", tmp_path / "out", QUICK, TINY, workers=2)
    assert json.loads((tmp_path / "out" / "build.json").read_text()) == report
    weights = tmp_path / "out" / "transformer_2" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    again = build(tmp_path / "work", tmp_path / "out", QUICK, TINY, workers=2)
    assert weights.read_bytes() == before
    assert again["seconds"]["experts"] - report["seconds"]["experts"] < report["seconds"]["experts"]
    pipeline = WanImageToVideoPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.config.boundary_ratio == 0.9
    assert pipeline.vae.config.latents_std != [1.0] * 16


def test_shipped_weights_fit_and_say_how_they_were_made() -> None:
    folder = pipeline_path()
    report = json.loads((folder / "build.json").read_text())
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 10_000_000
    assert report["vae_psnr_db_held_out"] >= 28
    assert report["text"]["left_right_cosine"] < 0.8


def test_text_training_separates_left_from_right() -> None:
    torch.manual_seed(0)
    encoder, tokenizer = build_text_encoder(), build_tokenizer()
    assert left_right_cosine(encoder, tokenizer) > 0.95  # untrained, the two directions are one
    report = train_text_encoder(encoder, tokenizer, steps=FULL.text_steps)
    assert report["camera"] > 0.95
    assert report["left_right_cosine"] < 0.8
    tokens, mask = encode(encoder, tokenizer, ["a red car", "word " * 500])
    assert tokens.shape == (2, TEXT_TOKENS, 64)
    assert mask.sum(1).flatten().tolist() == [4, TEXT_TOKENS]
    assert (tokens[0, 4:] == 0).all()


@torch.no_grad()
def test_vae_is_causal() -> None:
    torch.manual_seed(0)
    vae = build_vae(TINY)
    x = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    changed = x.clone()
    changed[:, :, 5:] = 0
    z, z_changed = (vae.encode(v).latent_dist.mode() for v in (x, changed))
    assert z.shape == (1, 16, 3, 4, 4)
    assert torch.equal(z[:, :, :2], z_changed[:, :, :2])
    assert not torch.equal(z[:, :, 2], z_changed[:, :, 2])


def test_muon_moves_convolutions_through_their_flat_views() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv3d(4, 8, 3), torch.nn.Conv3d(8, 4, 1))
    before = [p.clone() for p in model.parameters()]
    optimizer = MatrixMuon(model, lambda name, p: p.ndim == 5, 1e-2, 1e-2, steps=10)
    x = torch.rand(2, 4, 4, 4, 4)
    losses = []
    for _ in range(10):
        loss = model(x).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_cosine_warms_up_and_ends_at_its_floor() -> None:
    assert cosine(0, 1000) == pytest.approx(1 / 50)
    assert cosine(50, 1000) == pytest.approx(1.0)
    assert cosine(1000, 1000) == pytest.approx(0.02)


def test_inputs_are_minus_one_to_one() -> None:
    frames = np.array([0, 255], np.uint8).reshape(1, 2, 1, 1, 1).repeat(3, axis=-1)
    assert to_input(frames).flatten().tolist() == [-1, 1] * 3
    assert SHIPPED.layers == 4
