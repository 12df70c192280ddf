"""`--task pocket-i2v` inside musubi-tuner: the small model's configuration, text, VAE and prompts.

Its experts are files in Wan's own layout (musubi_ext.pocket.upstream); `--vae` and `--t5` name the pipeline folder that
they were made from.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musubi_ext.adapters.tensors import read_header
from musubi_ext.errors import Problems, UserError
from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.orbits.cache.encoders import SCALING, Encoders
from musubi_ext.pocket.upstream import TEXT_WIDTH, widen
from musubi_ext.quiet import quiet_loading

TASK = "pocket-i2v"
MODEL = "i2v-A14B"  # what it is a miniature of: everything but the sizes is that one's
# What upstream reads off the task where a sample prompt does not say it; of the pocket model.
SAMPLING = {
    "sample_neg_prompt": "",
    "sample_guide_scale": (1.0, 1.0),
    "sample_shift": 5.0,
    "sample_steps": 12,
    "frame_num": 17,
    "sample_fps": 8,
}
# Entry of a Wan configuration: the tensor that shows it, and the axis.
_SHOWN = {
    "dim": ("patch_embedding.weight", 0),
    "in_dim": ("patch_embedding.weight", 1),
    "ffn_dim": ("blocks.0.ffn.0.weight", 0),
    "freq_dim": ("time_embedding.0.weight", 1),
}
# Entry: the key of the file's metadata that states it.
_STATED = {"num_heads": "num_heads", "text_dim": "text_dim", "text_len": "text_tokens"}


def register(dit: Path, *others: Path) -> None:
    """Make the task known to musubi-tuner, with the sizes of an exported expert. Call it before its parser is built.

    `text_len` is the pocket's own: musubi-tuner fills every text up to it with zeros, and attention over rows of zeros
    counts them (their keys are the biases). The same sizes again change nothing; other ones replace them. Raises
    UserError for a file that was not exported for this, and where `others` differ from `dit` in size.
    """
    tasks = import_host().WAN_CONFIGS
    sizes, problems = read_sizes(dit), Problems()
    for other in others:
        for name, size in read_sizes(other).items():
            if size != sizes[name]:
                problems.add(other, f"{name} {size}, expected {sizes[name]} as in {dit}", "experts of one pipeline")
    problems.raise_if_any()
    entries = {**sizes, **SAMPLING}
    if TASK not in tasks or any(tasks[TASK][name] != value for name, value in entries.items()):
        config = deepcopy(tasks[MODEL])
        config.update({**entries, "__name__": "Config: pocket I2V"})
        tasks[TASK] = config


def read_sizes(dit: Path) -> dict[str, int]:
    """The entries of upstream's configuration that differ from A14B's, from a file's header alone."""
    header = read_header(dit)
    stated = header.pop("__metadata__", {})
    problems = Problems()
    for key in [name for name, _ in _SHOWN.values()]:
        if key not in header:
            problems.add(dit, f"expected an expert of the pocket model in Wan's own layout, found no {key}")
    for key in _STATED.values():
        if not str(stated.get(key, "")).isdecimal():
            problems.add(dit, f"metadata {key}: expected a number, found {stated.get(key)!r}", "export it again")
    problems.raise_if_any()
    sizes = {entry: int(header[key]["shape"][axis]) for entry, (key, axis) in _SHOWN.items()}
    layers = len({key.split(".")[1] for key in header if key.startswith("blocks.")})
    return {**sizes, "num_layers": layers, **{entry: int(stated[key]) for entry, key in _STATED.items()}}


class PocketParts:
    """Mixin in front of musubi-tuner's `WanNetworkTrainer`: what the pocket model has in place of A14B's files."""

    config: Any  # the task's, set by upstream

    def call_dit(
        self,
        args: Namespace,
        accelerator: Any,
        transformer: Any,
        latents: Tensor,
        batch: dict[str, Any],
        noise: Tensor,
        noisy_model_input: Tensor,
        timesteps: Tensor,
        network_dtype: torch.dtype,
        **kwargs: Any,
    ) -> Any:
        """Upstream's forward pass, the text of the batch (each (L, D)) widened to 4096 and cut at the text length.

        Raises UserError for text of another width than the model's.
        """
        host: Any = super()
        text = [self._widened(state) for state in batch["t5"]]
        return host.call_dit(
            args,
            accelerator,
            transformer,
            latents,
            {**batch, "t5": text},
            noise,
            noisy_model_input,
            timesteps,
            network_dtype,
            **kwargs,
        )

    def load_vae(self, args: Namespace, vae_dtype: torch.dtype, vae_path: str) -> PipelineVae:
        """The VAE of the pipeline folder `--vae`, on the CPU. `--vae_cache_cpu` has nothing to do with it."""
        return PipelineVae(_pipeline("--vae", args.vae), vae_dtype)

    def process_sample_prompts(self, args: Namespace, accelerator: Any, sample_prompts: str) -> list[dict[str, Any]]:
        """Each prompt of the file with its text states (L, 4096), float32, and the keys that upstream adds.

        Encoded as the caches are, by the pipeline folder `--t5`. Raises UserError where file or folder is not there.
        """
        if not Path(sample_prompts).is_file():
            raise UserError(f"--sample_prompts {sample_prompts}: expected a file of prompts, found nothing")
        encoders = Encoders.load(_pipeline("--t5", args.t5), device=str(accelerator.device))
        parameters = []
        for prompt in import_host().load_prompts(sample_prompts):
            texts = {"t5_embeds": prompt.get("prompt", "")}
            prompt.setdefault("negative_prompt", self.config.sample_neg_prompt)
            if prompt["negative_prompt"] is not None:
                texts["negative_t5_embeds"] = prompt["negative_prompt"]
            # Wan2.2 has no CLIP; upstream keeps its keys, empty.
            images = {"image_path": "clip_embeds", "end_image_path": "end_image_clip_embeds"}
            clip = {key: None for image, key in images.items() if prompt.get(image) is not None}
            states = {key: self._widened(encoders.encode_caption(text)) for key, text in texts.items()}
            parameters.append({**prompt, **states, **clip})
        return parameters

    def _widened(self, states: Tensor) -> Tensor:
        if states.shape[1] not in (self.config.text_dim, TEXT_WIDTH):
            raise UserError(
                f"text states {states.shape[1]} wide: --task {TASK} expects {self.config.text_dim} (cache the captions"
                " with the pipeline folder of the experts)"
            )
        return widen(states[: self.config.text_len], TEXT_WIDTH)


class PipelineVae:
    """diffusers' AutoencoderKLWan with the interface of musubi-tuner's `WanVAE` (wan/modules/vae.py).

    Latents are normalised per channel, (z − mean) / std, as in diffusers' pipelines and our caches. Whatever autocast
    surrounds a call, the precision is that of the weights.
    """

    def __init__(self, pipeline: Path, dtype: torch.dtype) -> None:
        from diffusers import AutoencoderKLWan

        with quiet_loading():
            self.model = AutoencoderKLWan.from_pretrained(pipeline, subfolder="vae", torch_dtype=dtype)
        self.model.eval().requires_grad_(False)
        self.mean, self.std = (torch.tensor(self.model.config[key]).view(-1, 1, 1, 1) for key in SCALING)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    def encode(self, videos: Iterable[Tensor]) -> list[Tensor]:
        """Each (3, 4n + 1, H, W) in [−1, 1] → normalised latents (16, n + 1, H/8, W/8), float32."""
        return [(self._run("encode", video).latent_dist.mode()[0].float() - self.mean) / self.std for video in videos]

    def decode(self, zs: Iterable[Tensor]) -> list[Tensor]:
        """Each (16, n + 1, h, w) of normalised latents → (3, 4n + 1, 8h, 8w) in [−1, 1], float32."""
        videos = (self._run("decode", z.to(self.device) * self.std + self.mean).sample[0] for z in zs)
        return [video.float().clamp(-1, 1) for video in videos]

    def to(self, device_or_dtype: torch.device | torch.dtype | str, dtype: torch.dtype | None = None) -> None:
        """As WanVAE: a device or a type, and a type."""
        for target in (device_or_dtype, dtype):
            if isinstance(target, torch.dtype):
                self.to_dtype(target)
            elif target is not None:
                self.to_device(target)

    def to_device(self, device: torch.device | str) -> None:
        """Move weights and scaling."""
        self.model.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)

    def to_dtype(self, dtype: torch.dtype) -> None:
        """Change the precision of the weights; scaling stays in float32."""
        self.model.to(dtype)

    def eval(self) -> None:
        """Nothing here depends on it: the VAE has no dropout."""
        self.model.eval()

    def train(self, mode: bool = True) -> None:
        """As `eval`."""
        self.model.train(mode)

    def requires_grad_(self, requires_grad: bool = True) -> None:
        """Of the weights; `encode` and `decode` record no gradients either way."""
        self.model.requires_grad_(requires_grad)

    def _run(self, method: str, video: Tensor) -> Any:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return getattr(self.model, method)(video[None].to(self.device, self.dtype))


def _pipeline(flag: str, path: str | Path | None) -> Path:
    if path is None or not (Path(path) / "model_index.json").is_file():
        raise UserError(f"{flag} {path or '(not given)'}: --task {TASK} takes a diffusers pipeline folder")
    return Path(path)
