"""The pocket Wan: Wan2.2-I2V-A14B's architecture at a few million parameters, and where its weights lie.

| part         | A14B                        | shipped                            | tiny (tests)          |
|--------------|-----------------------------|------------------------------------|-----------------------|
| experts      | 2 × 40 layers, 40 × 128     | 2 × 4 layers, 5 × 32, ffn 512      | 2 × 2 layers, 2 × 16  |
| input        | 36 channels: 16 noisy + 4 mask + 16 image latents, patch 1×2×2     | same        | same |
| VAE          | causal, 4×/8×, z 16         | the same, 2×2 patches first        | same, narrower        |
| text         | UMT5-XXL, 512 tokens × 4096 | UMT5 of one layer, 24 tokens × 64  | same                  |
| hand-over    | boundary 0.9                | 0.9                                | 0.9                   |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanTransformer3DModel

WEIGHTS = Path(__file__).with_name("weights")
BOUNDARY = 0.9  # I2V-A14B's own
FLOW_SHIFT = 5.0
TEXT_TOKENS = 24  # 512, Wan's own, would dwarf the 80 video tokens of a 64×64×17 clip
TEXT_DIM = 64
LATENT_CHANNELS = 16


@dataclass(frozen=True)
class Size:
    """Widths and depths that differ between the shipped model and the tiny one of the tests."""

    heads: int
    head_dim: int
    layers: int
    ffn: int
    vae_encoder: int  # base channels
    vae_decoder: int
    vae_levels: tuple[int, ...]  # multiples of the base, one per level; the patch is the first halving


SHIPPED = Size(heads=5, head_dim=32, layers=4, ffn=512, vae_encoder=16, vae_decoder=16, vae_levels=(1, 2, 3))
TINY = Size(heads=2, head_dim=16, layers=2, ffn=48, vae_encoder=8, vae_decoder=8, vae_levels=(1, 1, 1))


def pipeline_path() -> Path:
    """Folder of the shipped pipeline, loadable by `WanImageToVideoPipeline.from_pretrained`."""
    return WEIGHTS


def build_expert(size: Size) -> WanTransformer3DModel:
    """One expert with fresh weights; input (B, 36, F, H, W) latents, output (B, 16, F, H, W)."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        in_channels=2 * LATENT_CHANNELS + 4,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=size.ffn,
        num_layers=size.layers,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )


def build_vae(size: Size) -> AutoencoderKLWan:
    """The causal VAE with fresh weights: (B, 3, 4n+1, 8h, 8w) in [−1, 1] ⇄ (B, 16, n+1, h, w)."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=size.vae_encoder,
        decoder_base_dim=size.vae_decoder,
        z_dim=LATENT_CHANNELS,
        dim_mult=list(size.vae_levels),
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],  # diffusers spells it so
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )


def assemble(high: Any, low: Any, vae: Any, text_encoder: Any, tokenizer: Any) -> WanImageToVideoPipeline:
    """A stock diffusers pipeline of the given parts: UniPC on flow sigmas, hand-over at 0.9."""
    from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT, num_train_timesteps=1000
    )
    return WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=scheduler,
        transformer=high,
        transformer_2=low,
        boundary_ratio=BOUNDARY,
    )


def random_pipeline(folder: Path | str, seed: int = 0, size: Size = TINY) -> Path:
    """Write a complete pipeline of random weights to `folder`: what the tests run on. Returns the folder."""
    import torch

    from musubi_ext.pocket.text import build_text_encoder, build_tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = assemble(
            build_expert(size), build_expert(size), build_vae(size), build_text_encoder(), build_tokenizer()
        )
    pipeline.save_pretrained(folder)
    return Path(folder)
