"""Each lever of the service alone against stock diffusers: seconds a step, peak GPU memory, SSIM of the frames.

    python benchmarks/serving_levers.py --base models/Wan2.2-I2V-A14B-Diffusers --device cuda
    python benchmarks/serving_levers.py --base random-a14b --device cuda      # the 14B model's shapes, random weights
    python benchmarks/serving_levers.py --size 64x64 --frames 17 --steps 4    # the pocket on a CPU: that it works

The same picture, embeddings and noise each time, through the pipeline's own call. A lever that cannot be used here
says why. Random weights tell time and memory; their SSIM says how far a lever moves noise, not pictures.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from tables import insert, machine, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder: there `serving` is a file

from musubi_ext.errors import UserError
from musubi_ext.evaluation.metrics.ssim import ssim
from musubi_ext.generation.pipeline import choose_device, load_pipeline
from musubi_ext.storage import write_json
from serving.making import levers
from serving.making.step_caches import step_cache

RANDOM = "random-a14b"
A14B = {"num_attention_heads": 40, "attention_head_dim": 128, "num_layers": 40, "ffn_dim": 13824, "in_channels": 36,
        "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "cross_attn_norm": True}  # fmt: skip
NONE = "none: stock diffusers"
CHOICES: dict[str, dict[str, Any]] = {
    NONE: {},
    "layerwise_casting float8_e4m3fn": {"layerwise_casting": "float8_e4m3fn"},
    "group_offload block": {"group_offload": "block"},
    "group_offload leaf": {"group_offload": "leaf"},
    "vae_tile 256": {"vae_tile": 256},
    "step_cache first_block": {"step_cache": "first_block"},
    "step_cache taylorseer": {"step_cache": "taylorseer"},
    "attention flash": {"attention": "flash"},
    "compile regional": {"compile": "regional"},
    "quantization bitsandbytes-8bit": {"quantization": "bitsandbytes-8bit"},
    "quantization torchao-int8": {"quantization": "torchao-int8"},
}


def random_a14b(device: torch.device) -> Any:
    """Wan2.2-I2V-A14B's experts and VAE with random bf16 weights, without a text encoder; on `device`."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel

    def expert() -> Any:
        with torch.device(device):
            return WanTransformer3DModel(**A14B).to(torch.bfloat16).eval()

    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    with torch.device(device):
        vae = AutoencoderKLWan().eval()
    parts = {"vae": vae, "scheduler": scheduler, "transformer": expert(), "transformer_2": expert()}
    pipeline = WanImageToVideoPipeline(tokenizer=None, text_encoder=None, boundary_ratio=0.9, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def loaded(args: argparse.Namespace, chosen: levers.Levers) -> Any:
    """The base with one lever. Raises UserError where that cannot be."""
    device = choose_device(args.device)
    if args.device == "cpu" and chosen.needs_cuda:
        raise UserError(f"{chosen.needs_cuda} needs a GPU")
    if args.base != RANDOM:
        return levers.load(args.base, None, args.device, chosen)
    if chosen.quantization != "none":
        raise UserError("weights are quantized while a folder is read, and random ones have none")
    pipeline = random_a14b(device if chosen.group_offload == "none" else torch.device("cpu"))
    levers.apply(pipeline, chosen, device)
    return pipeline


def embeddings(args: argparse.Namespace) -> torch.Tensor:
    """(1, L, D) of the prompt, computed once and kept on the CPU; noise for random weights."""
    if args.base == RANDOM:
        return torch.randn(1, 512, A14B["text_dim"], generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    pipeline = load_pipeline(args.base)
    limit = min(pipeline.tokenizer.model_max_length, 512)
    with torch.no_grad():
        found: torch.Tensor = pipeline.encode_prompt(args.prompt, None, False, max_sequence_length=limit)[0]
    return found


def measured(args: argparse.Namespace, chosen: levers.Levers, text: torch.Tensor) -> dict[str, Any]:
    """Seconds a step (without the first, which warms up), peak bytes, frames (F, H, W, 3)."""
    pipeline = loaded(args, chosen)
    width, height = args.size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    at: list[float] = []

    def stepped(pipe: Any, step: int, t: Any, kept: dict[str, Any]) -> dict[str, Any]:
        if args.device == "cuda":
            torch.cuda.synchronize()
        at.append(time.perf_counter())
        return kept

    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    high, low = (step_cache(pipeline, name, args.steps, chosen) for name in levers.EXPERTS)
    with high, low, torch.no_grad():
        frames = pipeline(
            Image.fromarray(pixels), height=height, width=width, num_frames=args.frames, guidance_scale=1.0,
            num_inference_steps=args.steps, prompt_embeds=text.to(pipeline._execution_device), output_type="np",
            generator=torch.Generator("cpu").manual_seed(0), callback_on_step_end=stepped,
        ).frames[0]  # fmt: skip
    peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else None
    shown = np.round(np.nan_to_num(frames) * 255).astype(np.uint8)
    steps = [after - before for before, after in pairwise(at)]
    return {"seconds_a_step": median(steps), "peak_bytes": peak, "frames": shown}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every lever's figures, or the reason why there are none."""
    text, found, plain = embeddings(args), {}, None
    for name, values in CHOICES.items():
        try:
            one = measured(args, levers.Levers.model_validate(values), text)
        except (UserError, ValueError, RuntimeError, ImportError) as error:  # each lever for itself
            said = (
                error.errors()[0]["msg"].removeprefix("Value error, ")
                if isinstance(error, ValidationError)
                else str(error)
            )
            found[name] = {"unavailable": said.strip().splitlines()[0]}
            continue
        finally:
            gc.collect()
            if args.device == "cuda":
                torch.cuda.empty_cache()
        frames = one.pop("frames")
        plain = frames if plain is None else plain
        found[name] = one | {"ssim": fmean(ssim(a, b) for a, b in zip(frames, plain, strict=True))}
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU"
    shape = f"{args.frames} frames of {args.size[0]}×{args.size[1]}, {args.steps} steps"
    return {"machine": f"{gpu}; {machine()}", "base": Path(args.base).name, "shape": shape, "levers": found}


def markdown(document: Mapping[str, Any]) -> str:
    """The table."""
    rows = []
    for name, one in document["levers"].items():
        if "unavailable" in one:
            rows.append([name, f"unavailable: {one['unavailable']}", "", ""])
            continue
        peak = "unavailable: no GPU" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 2**30:.1f} GiB"
        rows.append([name, f"{one['seconds_a_step']:.3f}", peak, f"{one['ssim']:.4f}"])
    head = ["lever", "s a step", "peak memory", "SSIM against none"]
    return f"{document['base']}, {document['shape']}. {document['machine']}.\n\n{table(head, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="pocket-i2v", help=f"folder, pocket-i2v or {RANDOM} (%(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="832x480", type=lambda text: tuple(int(part) for part in text.split("x")))
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--prompt", default="camera circles right to left, a red car")
    parser.add_argument("--json", type=Path, help="the figures")
    parser.add_argument("--markdown", type=Path, help="file whose table between the markers `levers` is replaced")
    args = parser.parse_args(argv)
    if args.steps < 2:
        parser.error("--steps: expected at least 2, the first warms up")
    document = measure(args)
    text = markdown(document)
    print(text)
    if args.json:
        write_json(args.json, document)
    if args.markdown:
        insert(args.markdown, "levers", text)


if __name__ == "__main__":
    main()
