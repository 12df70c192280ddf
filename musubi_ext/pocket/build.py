"""Make the shipped pocket Wan from nothing: `python -m musubi_ext.pocket.build --work runs/pocket`.

Renders the corpus, trains text encoder, VAE and both experts on two CPU cores, and writes one diffusers pipeline
folder in half precision with `build.json` beside it (what was done, how long it took, how good it is). Every finished
stage is kept in the work folder, so an interrupted build goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from musubi_ext import __version__
from musubi_ext.orbits.render import render
from musubi_ext.pocket import corpus as corpora
from musubi_ext.pocket.config import SHIPPED, TINY, WEIGHTS, Size, assemble
from musubi_ext.pocket.latents import encode_corpus
from musubi_ext.pocket.text import build_text_encoder, build_tokenizer
from musubi_ext.pocket.train_experts import train_experts
from musubi_ext.pocket.train_text import encode, train_text_encoder
from musubi_ext.pocket.train_vae import reconstruction_psnr, train_vae
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import write_json
from musubi_ext.video import Frames


@dataclass(frozen=True)
class Budget:
    """How much of everything: scale of the corpus and optimizer steps per stage."""

    scale: float
    text_steps: int
    image_steps: int
    clip_steps: int
    decoder_steps: int
    expert_steps: int


FULL = Budget(scale=1.0, text_steps=400, image_steps=1000, clip_steps=3200, decoder_steps=1500, expert_steps=6000)
QUICK = Budget(scale=0.004, text_steps=60, image_steps=4, clip_steps=2, decoder_steps=2, expert_steps=3)


def build(work: Path, out: Path, budget: Budget, size: Size = SHIPPED, workers: int = 2) -> dict[str, Any]:
    """Run every stage, write the pipeline to `out` and return the report that is written as `out/build.json`."""
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    clock = work / "seconds.json"  # adds up over interrupted runs
    seconds: dict[str, float] = json.loads(clock.read_text()) if clock.exists() else {}
    since = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal since
        seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - since, 1)
        since = time.perf_counter()
        write_json(clock, seconds)

    corpus = corpora.build(work, budget.scale, workers)
    lap("corpus")
    torch.manual_seed(0)
    tokenizer, encoder = build_tokenizer(), build_text_encoder()
    text = train_text_encoder(encoder, tokenizer, budget.text_steps)
    lap("text")
    vae = train_vae(corpus.frames, size, work, budget.image_steps, budget.clip_steps, budget.decoder_steps)
    vae.save_pretrained(work / "vae")
    psnr = reconstruction_psnr(vae, held_out_clips(8 if budget is QUICK else 48))
    lap("vae")
    data = encode_corpus(corpus, work / "vae", encoder, tokenizer, work, workers)
    lap("latents")
    with torch.no_grad():
        no_text = encode(encoder, tokenizer, [""])[0][0]
    experts = train_experts(data, no_text, work, budget.expert_steps, size)
    lap("experts")
    pipeline = assemble(experts[Expert.HIGH], experts[Expert.LOW], vae, encoder, tokenizer)
    pipeline.to(torch.float16).save_pretrained(out)
    report = {
        "version": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {workers} processes of one thread",
        "budget": asdict(budget),
        "clips": len(corpus.frames),
        "seconds": seconds,
        "text": {name: round(value, 4) for name, value in text.items()},
        "vae_psnr_db_held_out": round(psnr, 2),
        "parameters": {
            "expert": parameters(experts[Expert.HIGH]),
            "vae": parameters(vae),
            "text_encoder": parameters(encoder),
        },
        "bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
    }
    write_json(out / "build.json", report)
    return report


def parameters(model: torch.nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in model.parameters())


def held_out_clips(count: int) -> Frames:
    """True orbits (N, 17, 64, 64, 3) of shapes that the corpus does not hold, in both directions."""
    clips = [render(i, "orbit", +1 if i % 2 else -1, family="heldout").frames for i in range(count)]
    return np.stack(clips)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m musubi_ext.pocket.build", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/pocket"), help="keeps finished stages (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, help=f"pipeline folder to write (default: WORK/pipeline; shipped: {WEIGHTS.name})"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes for rendering and encoding")
    parser.add_argument(
        "--quick", action="store_true", help="a minute of everything: proves the command, not the model"
    )
    args = parser.parse_args()
    out = args.out or args.work / "pipeline"
    report = build(args.work, out, QUICK if args.quick else FULL, TINY if args.quick else SHIPPED, args.workers)
    for name, value in report.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
