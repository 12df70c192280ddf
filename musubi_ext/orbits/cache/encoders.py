"""Clips and captions to what a Wan transformer reads, with diffusers' VAE and transformers' UMT5."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ftfy
import torch
from safetensors import SafetensorError
from torch import Tensor

from musubi_ext.errors import Problems, UserError
from musubi_ext.orbits.cache.causal_encoder import CHUNK, CausalEncoder
from musubi_ext.orbits.cache.wan_vae import CHANNELS, expect_layout
from musubi_ext.orbits.conditioning import condition_mask, condition_video
from musubi_ext.quiet import quiet_loading
from musubi_ext.video import Frames

WAN_TEXT_TOKENS = 512  # Wan's own text length; a tokenizer that says less is believed

CPU_BYTES = 16 << 20  # of a chunk at full resolution: beyond the processor's cache a batch is slower, not faster
GPU_BYTES = 640 << 20  # of the same: one clip of the full-size VAE at 832×480 in float32
LARGEST = 8  # windows encoded together; more gained nothing

PARTS = ("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json")
SCALING = ("latents_mean", "latents_std")  # keys of the VAE's configuration, a number per channel


class Encoders:
    """The frozen halves of a Wan pipeline that caching needs: VAE encoder, text encoder, tokenizer.

    The text encoder, 11 GB of UMT5-XXL, goes to the VAE's device with the first caption, so only when one is missing.
    """

    def __init__(
        self, vae: Any, text_encoder: Any, tokenizer: Any, tokenizer_metadata: Mapping[str, str] | None = None
    ) -> None:
        self.tokenizer_metadata = dict(tokenizer_metadata or {})  # goes into the text caches
        self.vae = vae.eval().requires_grad_(False)
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.text_tokens = min(int(tokenizer.model_max_length), WAN_TEXT_TOKENS)

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Encoders:
        """From a diffusers pipeline folder. Raises UserError naming each missing part, or what is no part of it."""
        folder = Path(folder)
        check_folder(folder)
        from diffusers import AutoencoderKLWan
        from transformers import AutoTokenizer, UMT5EncoderModel

        try:
            with quiet_loading():
                vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae", torch_dtype=dtype).to(device)
                text = UMT5EncoderModel.from_pretrained(folder, subfolder="text_encoder", dtype=dtype)
                return cls(vae, text, AutoTokenizer.from_pretrained(folder / "tokenizer"))
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{folder}: expected a diffusers Wan pipeline, found: {reason} (fetch it anew)") from error

    @cached_property
    def vae_id(self) -> str:
        """SHA-256 of the VAE's encoder and the scaling of its latents: a new decoder leaves every cache valid."""
        weights = {
            name: tensor
            for name, tensor in self.vae.state_dict().items()
            if not name.startswith(("decoder.", "post_quant_conv."))
        }
        return _model_id(weights, {key: self.vae.config[key] for key in SCALING})

    @cached_property
    def text_id(self) -> str:
        """SHA-256 of the text encoder's weights and of the tokenizer's vocabulary and length."""
        return _model_id(self.text_encoder.state_dict(), [self.text_tokens, sorted(self.tokenizer.get_vocab().items())])

    @cached_property
    def _causal(self) -> CausalEncoder:
        if self.vae.device.type == "cpu":  # the layout that oneDNN computes in: a tenth to a half faster
            for module in self.vae.modules():
                if isinstance(module, torch.nn.Conv3d):
                    module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
                elif isinstance(module, torch.nn.Conv2d):
                    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return CausalEncoder(self.vae)

    def batch_size(self, height: int, width: int) -> int:
        """How many windows of this size to encode together: as their first activations fit a CPU's cache, or a GPU."""
        patch: int = self.vae.config.patch_size or 1
        one: int = CHUNK * self.vae.config.base_dim * (height // patch) * (width // patch) * self.vae.dtype.itemsize
        room = CPU_BYTES if self.vae.device.type == "cpu" else GPU_BYTES
        return max(1, min(LARGEST, room // one))

    def encode_windows(self, windows: Sequence[Frames], *, last: bool) -> tuple[Tensor, Tensor]:
        """Latents (B, 16, f, h, w) and conditioning (B, 20, f, h, w) of B windows of one shape, in one pass each.

        Equal to `encode_clip` and `encode_condition` of every window, which walk the VAE as diffusers does, to 1e-5.
        """
        layout = torch.channels_last_3d if self.vae.device.type == "cpu" else torch.contiguous_format
        video = torch.stack([self._pixels(frames) for frames in windows]).to(self.vae.dtype)
        with torch.no_grad():
            clips, given = self._causal.encode_pair(video.contiguous(memory_format=layout), last=last)
        latents, image = self._scaled(clips), self._scaled(given)
        mask = condition_mask(video.shape[2], (latents.shape[3], latents.shape[4]), last).to(image)
        return latents, torch.cat([mask.expand(len(windows), -1, -1, -1, -1), image], 1)

    def encode_clip(self, frames: Frames) -> Tensor:
        """uint8 frames (F, H, W, 3) → normalised latents (16, (F − 1)/4 + 1, H/8, W/8)."""
        return self._latents(self._pixels(frames))

    def encode_condition(self, frames: Frames, *, last: bool) -> Tensor:
        """uint8 frames (F, H, W, 3) → (4 + 16, (F − 1)/4 + 1, H/8, W/8): mask, then latents of the given frames."""
        latents = self._latents(condition_video(self._pixels(frames), last))
        mask = condition_mask(len(frames), (latents.shape[2], latents.shape[3]), last)
        return torch.cat([mask.to(latents), latents])

    def encode_caption(self, caption: str) -> Tensor:
        """One caption → (L, D), L its tokens up to the tokenizer's maximum, padding left out."""
        self.text_encoder.to(self.vae.device)
        tokens = self._tokens(caption, truncation=True)
        with torch.no_grad():
            states = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
        embedding: Tensor = states[: int(tokens.attention_mask.sum())].cpu().contiguous()
        return embedding

    def token_count(self, caption: str) -> int:
        """Tokens of a caption before truncation."""
        return len(self.tokenizer(clean_caption(caption), add_special_tokens=True, verbose=False).input_ids)

    def _tokens(self, caption: str, **options: Any) -> Any:
        tokens = self.tokenizer(
            [clean_caption(caption)],
            padding="max_length",
            max_length=self.text_tokens,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
            **options,
        )
        return tokens.to(self.text_encoder.device)

    def _pixels(self, frames: Frames) -> Tensor:
        """(F, H, W, 3) bytes → (3, F, H, W) in [−1, 1]."""
        return torch.from_numpy(frames).permute(3, 0, 1, 2).to(self.vae.device, torch.float32) / 127.5 - 1

    def _latents(self, video: Tensor) -> Tensor:
        """Mode of the posterior, (z − mean) / std per channel, as diffusers and musubi-tuner's WanVAE scale it."""
        with torch.no_grad():
            mode = self.vae.encode(video[None].to(self.vae.dtype)).latent_dist.mode()
        return self._scaled(mode)[0]

    def _scaled(self, mode: Tensor) -> Tensor:
        mean, std = (torch.tensor(self.vae.config[key]).view(-1, 1, 1, 1).to(mode) for key in SCALING)
        return ((mode - mean) / std).cpu().contiguous()


def check_folder(folder: Path) -> None:
    """Raises UserError unless a folder holds the three parts of a diffusers Wan pipeline that caching needs."""
    problems = Problems()
    for part in PARTS:
        if not (folder / part).is_file():
            problems.add(folder / part, "expected a part of a Wan pipeline, found nothing", "check the folder")
    problems.raise_if_any()
    vae = folder / PARTS[0]
    try:
        config = json.loads(vae.read_text(encoding="utf-8"))
        channels, residual = int(config.get("z_dim", CHANNELS)), bool(config.get("is_residual", False))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{vae}: expected a VAE's configuration in JSON, found: {error} (fetch it anew)") from error
    expect_layout(vae, channels, residual)


def clean_caption(caption: str) -> str:
    """Mended unicode, no HTML entities, single spaces: `prompt_clean` of diffusers' Wan pipelines."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(caption)))).strip()


def _model_id(weights: Mapping[str, Tensor], configuration: Any) -> str:
    digest = hashlib.sha256(json.dumps(configuration, ensure_ascii=False).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
