"""One pocket model of the whole timestep range as both experts: what a fork of a single model starts from.

A shipped expert (low noise) trained on over all timesteps, by what made it: the base's corpus, Muon, averaged weights.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from musubi_ext.pocket import corpus as corpora
from musubi_ext.pocket.config import FLOW_SHIFT, pipeline_path
from musubi_ext.pocket.latents import encode_corpus
from musubi_ext.pocket.optim import MatrixMuon, averaged
from musubi_ext.pocket.train_experts import flow_loss
from musubi_ext.pocket.train_text import encode
from musubi_ext.schedule.timesteps import sample_timesteps

BATCH = 8
RATE = 0.4  # of the rates that trained it from nothing (2.5e-3, 1.5e-3)
AVERAGE = 0.98


def fork(folder: Path, steps: int, scale: float) -> Path:
    """A pipeline folder in `folder` whose two experts are one model; made once. `scale` is of the base's corpus."""
    out = folder / "pipeline"
    if (out / "model_index.json").exists():
        return out
    from diffusers import WanImageToVideoPipeline

    pipeline = WanImageToVideoPipeline.from_pretrained(pipeline_path(), torch_dtype=torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = corpora.build(folder, scale, 1)
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    data = encode_corpus(corpus, pipeline_path() / "vae", encoder, tokenizer, folder, 1)
    with torch.no_grad():
        no_text = encode(encoder, tokenizer, [""])[0][0]
    model = pipeline.transformer_2.train()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    optimizer = MatrixMuon(model, _hidden, muon_lr=2.5e-3 * RATE, adam_lr=1.5e-3 * RATE, steps=steps)
    average = averaged(model, AVERAGE)
    for _ in track(range(steps), "training one model of the whole range"):
        batch = data.sample(rng, BATCH, no_text)
        t = sample_timesteps("shift", BATCH, 0.0, 1.0, shift=FLOW_SHIFT)
        flow_loss(model, batch, torch.randn_like(batch.latents), t).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update_parameters(model)
    pipeline.transformer_2 = average.module.eval()
    pipeline.transformer = copy.deepcopy(pipeline.transformer_2)
    pipeline.save_pretrained(out)
    return out


def _hidden(name: str, parameter: torch.nn.Parameter) -> bool:
    return name.startswith("blocks.") and parameter.ndim == 2
