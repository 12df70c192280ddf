"""Both hosts' previews agree: musubi-tuner's own reading of the prompts, and the pixels of the two renderings."""

from __future__ import annotations

import functools
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from musubi_ext.generation.pipeline import load_pipeline
from musubi_ext.generation.sample_prompts import read_sample_prompts
from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.hosts.musubi.pocket_task import PocketParts
from musubi_ext.hosts.musubi.previews import Live, OnDisk, render_pair
from musubi_ext.schedule.experts import Expert

BOUNDARY = 0.9


def test_upstream_reads_the_prompts_as_we_do(host: ModuleType, tmp_path: Path) -> None:
    picture = tmp_path / "first.png"
    Image.new("RGB", (64, 48)).save(picture)
    flags = f"--w 64 --h 48 --f 17 --d 7 --s 6 --fs 5.5 --g 6.0 --l 3.5 --n grey --i {picture}"
    line = f"a red car {flags} --ei {picture}"
    (tmp_path / "prompts.txt").write_text(f"# comment\n{line}\n")
    (theirs,) = host.load_prompts(str(tmp_path / "prompts.txt"))
    (ours,) = read_sample_prompts(tmp_path / "prompts.txt")
    assert (ours.prompt, ours.width, ours.height, ours.frames, ours.seed, ours.steps, ours.shift, ours.cfg) == tuple(
        theirs[key]
        for key in (
            "prompt",
            "width",
            "height",
            "frame_count",
            "seed",
            "sample_steps",
            "discrete_flow_shift",
            "cfg_scale",
        )
    )
    assert (ours.negative_prompt, str(ours.image), str(ours.end_image)) == tuple(
        theirs[key] for key in ("negative_prompt", "image_path", "end_image_path")
    )


@pytest.mark.parametrize("last", [False, True])
def test_both_hosts_render_the_same_video(
    host: ModuleType,
    host_args: Callable[..., Namespace],
    pocket_files: dict[Expert, Path],
    tiny_pipeline: Path,
    tmp_path: Path,
    last: bool,
) -> None:
    """The pocket experts in Wan's layout, inside musubi-tuner, against diffusers' pipeline on the same scheduler."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "first.png")
    values = {"width": 48, "height": 32, "frame_count": 9, "seed": 5, "sample_steps": 8, "discrete_flow_shift": 5.0}
    images = {"image_path": str(tmp_path / "first.png")} | (
        {"end_image_path": str(tmp_path / "first.png")} if last else {}
    )
    (tmp_path / "prompts.json").write_text(json.dumps([{"prompt": "red car", **values, **images}]))

    args = host_args(dit=pocket_files[Expert.LOW])
    trainer = type("Trainer", (PocketParts, host.WanNetworkTrainer), {})()
    trainer.handle_model_specific_args(args)
    accelerator = trainer._prepare_accelerator_and_dtypes(args)[0]
    samples = trainer.process_sample_prompts(args, accelerator, str(tmp_path / "prompts.json"))
    vae = trainer.load_vae(args, torch.float32, args.vae)
    experts: dict[Expert, Live | OnDisk] = {expert: OnDisk(str(file), None) for expert, file in pocket_files.items()}
    decoded: list[torch.Tensor] = []  # before the lossy encoder
    decode = vae.decode
    vae.decode = lambda zs: decoded.extend(decode(zs)) or decoded[-1:]
    render_pair(trainer, args, accelerator, experts, samples, vae, tmp_path, "native", BOUNDARY)

    scheduler = import_host_module("musubi_tuner.wan.utils.fm_solvers_unipc").FlowUniPCMultistepScheduler(shift=1)
    scheduler.set_timesteps = functools.partial(
        scheduler.set_timesteps, shift=5.0
    )  # diffusers' own sigmas differ by 0.002
    pipeline = load_pipeline(tiny_pipeline)
    pipeline.scheduler = scheduler
    picture = Image.fromarray(pixels)
    output = pipeline(
        image=picture,
        last_image=picture if last else None,
        prompt="red car",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=8,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(5),
        max_sequence_length=pipeline.tokenizer.model_max_length,
        output_type="np",
    )
    ours = (decoded[0] / 2 + 0.5).permute(1, 2, 3, 0).numpy()
    assert ours.shape == (9, 32, 48, 3)
    np.testing.assert_allclose(ours, output.frames[0], atol=1e-3)  # a quarter of a grey level
    assert np.abs(ours[0] - ours[-1]).max() > 0.01  # and it is no still picture
