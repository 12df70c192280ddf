"""The pocket task inside musubi-tuner: its configuration, its VAE and its prompts are those of the pipeline folder."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.pocket_task import TASK, PipelineVae, PocketParts, read_sizes, register
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.pocket import pipeline_path
from musubi_ext.pocket.upstream import export_experts
from musubi_ext.schedule.experts import Expert

pytestmark = pytest.mark.usefixtures("host")
CPU = SimpleNamespace(device=torch.device("cpu"))  # as much of an accelerator as prompts need
Build = Callable[..., Namespace]


@pytest.fixture
def tasks(host: ModuleType, process_left_alone: None) -> dict[str, Any]:
    """musubi-tuner's, without ours."""
    found: dict[str, Any] = host.WAN_CONFIGS
    found.pop(TASK, None)
    return found


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "first.png")
    file = tmp_path / "prompts.txt"
    words = f"--w 32 --h 32 --f 5 --s 2 --d 1 --fs 5 --i {tmp_path / 'first.png'}"
    file.write_text(f"Camera circles   right to left, a red car {words}\na blue bus --n a red car {words}\n")
    return file


def trainer(host: ModuleType, args: Namespace) -> Any:
    made = type("Upstream", (PocketParts, host.WanNetworkTrainer), {})()
    made.handle_model_specific_args(args)
    return made


def test_the_task_is_a14b_in_the_sizes_of_the_file(tasks: dict[str, Any], pocket_files: dict[Expert, Path]) -> None:
    register(pocket_files[Expert.LOW], pocket_files[Expert.HIGH])
    config, a14b = tasks[TASK], tasks["i2v-A14B"]
    assert (config.dim, config.ffn_dim, config.num_heads, config.num_layers, config.freq_dim) == (32, 48, 2, 2, 64)
    assert (config.in_dim, config.text_dim, config.text_len) == (36, 64, 24)
    assert (config.v2_2, config.i2v, config.boundary, config.out_dim) == (True, True, 0.9, 16)
    assert (a14b.dim, a14b.text_len, a14b.sample_guide_scale) == (5120, 512, (3.5, 3.5))
    register(pocket_files[Expert.HIGH])
    assert tasks[TASK] is config


def test_experts_of_different_sizes_are_refused(
    tasks: dict[str, Any], pocket_files: dict[Expert, Path], tmp_path: Path
) -> None:
    shipped = export_experts(pipeline_path(), tmp_path)[Expert.HIGH]
    with pytest.raises(UserError) as raised:
        register(pocket_files[Expert.LOW], shipped)
    assert len(raised.value.problems) == 4  # dim, ffn_dim, num_layers, num_heads
    assert "dim 160, expected 32" in raised.value.problems[0]
    assert TASK not in tasks
    register(shipped)  # another pipeline, another run
    assert tasks[TASK].dim == 160


def test_a_file_of_another_layout_is_refused(tiny_pipeline: Path) -> None:
    with pytest.raises(UserError, match=r"no blocks\.0\.ffn\.0\.weight(.|\n)*metadata num_heads: expected a number"):
        read_sizes(tiny_pipeline / "transformer" / "diffusion_pytorch_model.safetensors")


def test_the_vae_gives_the_latents_of_the_caches(host: ModuleType, host_args: Build, tiny_pipeline: Path) -> None:
    args = host_args()
    vae = trainer(host, args).load_vae(args, vae_dtype=torch.float32, vae_path=args.vae)
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2) / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):  # as upstream calls it
        latents = vae.encode([pixels])
    assert torch.equal(latents[0], Encoders.load(tiny_pipeline).encode_clip(frames))
    (video,) = vae.decode(latents[0][None])
    assert video.shape == pixels.shape
    assert video.dtype == torch.float32
    assert video.abs().max() <= 1


def test_the_vae_undoes_its_own_scaling() -> None:
    vae = PipelineVae(pipeline_path(), torch.float32)
    still = torch.linspace(-0.5, 0.5, 64).expand(3, 1, 64, 64)
    (video,) = vae.decode(vae.encode([still]))
    assert (video - still).abs().mean() < 0.1
    vae.to("cpu", torch.bfloat16)
    assert vae.dtype == torch.bfloat16
    assert vae.encode([still])[0].dtype == torch.float32


def test_prompts_are_encoded_as_the_caches_are(
    host: ModuleType, host_args: Build, tiny_pipeline: Path, prompts: Path
) -> None:
    args = host_args()
    first, second = trainer(host, args).process_sample_prompts(args, CPU, str(prompts))
    encoders = Encoders.load(tiny_pipeline)
    for text, states in (
        ("Camera circles right to left, a red car", first["t5_embeds"]),
        ("", first["negative_t5_embeds"]),
        ("a red car", second["negative_t5_embeds"]),
    ):
        expected = encoders.encode_caption(text)
        assert states.shape == (len(expected), 4096)
        assert torch.equal(states[:, :64], expected)
        assert not states[:, 64:].any()
    assert first.keys() == second.keys()
    assert (first["enum"], second["enum"], first["clip_embeds"], first["width"]) == (0, 1, None, 32)


def test_musubi_tuner_samples_with_them(host: ModuleType, host_args: Build, prompts: Path, tmp_path: Path) -> None:
    args = host_args(
        sample_prompts=prompts, sample_at_first=True, output_dir=tmp_path, output_name="sample", vae_dtype="float32"
    )
    sampler = trainer(host, args)
    accelerator, _, dit_dtype, dit_weight_dtype, vae_dtype = sampler._prepare_accelerator_and_dtypes(args)
    parameters, vae = sampler._prepare_sampling(args, accelerator, vae_dtype)
    transformer = sampler._load_dit_and_swap(args, accelerator, dit_weight_dtype)
    sampler.sample_images(accelerator, args, None, 0, vae, transformer, parameters, dit_dtype)
    assert len(list((tmp_path / "sample").glob("sample_000000_*.mp4"))) == 2


def test_text_of_another_model_is_refused(host: ModuleType, host_args: Build) -> None:
    task = trainer(host, host_args())
    with pytest.raises(UserError, match="text states 128 wide: --task pocket-i2v expects 64"):
        task.call_dit(None, None, None, None, {"t5": [torch.zeros(7, 128)]}, None, None, None, None)


def test_what_is_no_pipeline_folder_is_refused(host: ModuleType, host_args: Build, prompts: Path) -> None:
    args = host_args(vae=prompts, t5=None)
    task = trainer(host, args)
    with pytest.raises(UserError, match=r"--vae .*prompts\.txt: --task pocket-i2v takes a diffusers pipeline folder"):
        task.load_vae(args, torch.float32, args.vae)
    with pytest.raises(UserError, match=r"--t5 \(not given\)"):
        task.process_sample_prompts(args, CPU, str(prompts))
    with pytest.raises(UserError, match=r"--sample_prompts absent\.txt: expected a file of prompts"):
        task.process_sample_prompts(args, CPU, "absent.txt")
