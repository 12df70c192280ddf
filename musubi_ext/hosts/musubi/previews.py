"""Videos of the sample prompts by both experts, inside musubi-tuner and in the memory that the training itself needs.

Upstream's in-training samples come from the low-noise expert alone (wan_train_network.py, `do_inference`). Here every
prompt goes through the high-noise expert down to the boundary, then through the low-noise one: all prompts through one
expert before the other is put on the device.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from PIL import Image, ImageOps
from torch import Tensor

from musubi_ext import rng
from musubi_ext.errors import Problems
from musubi_ext.filmstrip import save_filmstrip
from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.hosts.musubi.residency import Live, OnDisk, use_expert
from musubi_ext.orbits.conditioning import condition_mask
from musubi_ext.schedule.experts import Expert
from musubi_ext.video import Frames, write_mp4

__all__ = ["Live", "OnDisk", "render_pair"]

SEED = 0  # of a prompt that gives none: previews are compared across epochs
LATENT_CHANNELS = 16
SIDE = 16  # pixels: 8 of the VAE times 2 of the transformer's patch


@dataclass(eq=False)
class _Preview:
    """One prompt under way. Everything in it stays on the CPU; `latent` (16, F, h, w) goes from noise to video."""

    name: str
    prompt: str
    seed: int
    context: Tensor  # (L, 4096)
    negative: Tensor | None  # None: the prompt asks for no guidance
    scales: Mapping[Expert, float]
    condition: Tensor | None  # (20, F, h, w): 4 mask channels, 16 image latents; None for text-to-video
    scheduler: Any  # UniPC looks back at earlier steps: one object from the first to the last, over the hand-over
    latent: Tensor


def render_pair(
    trainer: Any,
    args: Namespace,
    accelerator: Any,
    experts: Mapping[Expert, Live | OnDisk],
    sample_parameters: Sequence[Mapping[str, Any]],
    vae: Any,
    folder: Path,
    stem: str,
    boundary: float,
) -> list[Path]:
    """Write `{stem}_{index:02d}.mp4` to `folder` for each prompt, and a filmstrip beside it (.png); returns the videos.

    `sample_parameters` are what the trainer's `process_sample_prompts` returned, `vae` what its `load_vae` did;
    defaults and rounding are upstream's `sample_image_inference`, but sizes are cut to multiples of 16, without which
    the transformer fails, a missing seed is 0, and a missing cfg scale is each expert's own. `boundary`: t in (0, 1).

    Call it in the main process only. Modes, devices, block swap and the global random states are as they were
    afterwards, after an exception too. Raises UserError for a prompt without a readable image.
    """
    own = Namespace(**{**vars(args), "gradient_checkpointing": False})  # upstream would ask gradients of our inputs
    device = accelerator.device
    with rng.untouched(), torch.no_grad():
        with _on_device(vae, device):
            previews = _prepare(trainer, sample_parameters, vae, device, stem)
        for expert in Expert:  # high, then low
            if any(_timesteps(preview, expert, boundary) for preview in previews):
                stage = _Stage(trainer, own, accelerator, previews, expert, boundary)
                use_expert(experts[expert], list(experts.values()), trainer, own, accelerator, stage.denoise)
        with _on_device(vae, device):
            return [_write(item, _decode(vae, item, device), folder, trainer.config.sample_fps) for item in previews]


@dataclass(frozen=True, eq=False)
class _Stage:
    """The steps of one expert, over all prompts."""

    trainer: Any
    args: Namespace
    accelerator: Any
    previews: list[_Preview]
    expert: Expert
    boundary: float

    def denoise(self, transformer: Any) -> None:
        """Take every preview through this expert's timesteps."""
        for preview in self.previews:
            scale = preview.scales[self.expert]
            for t in _timesteps(preview, self.expert, self.boundary):
                flow = self._predict(transformer, preview, t, preview.context)
                if preview.negative is not None and scale != 1:
                    away = self._predict(transformer, preview, t, preview.negative)
                    flow = away + scale * (flow - away)
                stepped = preview.scheduler.step(flow[None], t, preview.latent[None], return_dict=False)
                preview.latent = stepped[0][0]

    def _predict(self, transformer: Any, preview: _Preview, t: Tensor, context: Tensor) -> Tensor:
        """The flow (16, F, h, w), through the forward pass of the training itself, in float32 under its autocast."""
        device = self.accelerator.device
        latent = preview.latent[None].to(device)
        batch: dict[str, Any] = {"t5": [context.to(device)]}
        if preview.condition is not None:
            batch["latents_image"] = preview.condition[None].to(device)
        output = self.trainer.call_dit(
            self.args, self.accelerator, transformer, latent, batch, latent, latent, t[None].to(device), torch.float32
        )
        flow: Tensor = output.pred[0].float().cpu()
        return flow


def _timesteps(preview: _Preview, expert: Expert, boundary: float) -> list[Tensor]:
    """This expert's share of the schedule; t on the boundary is the high one's (Wan2.2 image2video.py, diffusers)."""
    return [t for t in preview.scheduler.timesteps if (t >= boundary * 1000) == (expert is Expert.HIGH)]


def _prepare(
    trainer: Any, parameters: Sequence[Mapping[str, Any]], vae: Any, device: torch.device, stem: str
) -> list[_Preview]:
    problems = Problems()
    images = [_images(trainer, values, f"sample prompt {n}", problems) for n, values in enumerate(parameters, start=1)]
    problems.raise_if_any()
    previews = []
    for index, (values, given) in enumerate(zip(parameters, images, strict=True)):
        previews.append(_preview(trainer, f"{stem}_{index:02d}", values, given, vae, device))
    return previews


def _images(trainer: Any, values: Mapping[str, Any], where: str, problems: Problems) -> dict[int, Image.Image]:
    """The given pictures by frame: 0 the first, -1 the last; none for text-to-video."""
    keys = {0: "image_path", -1: "end_image_path"} if trainer.i2v_training else {}
    found = {}
    for frame, key in keys.items():
        path = values.get(key)
        if path is None and frame == 0:
            problems.add(f"{where} {key}", "expected the first frame of an image-to-video preview, found none")
        elif path is not None:
            try:
                with Image.open(path) as image:
                    found[frame] = ImageOps.exif_transpose(image).convert("RGB")
            except OSError as error:
                problems.add(f"{where} {key}", f"expected an image, found {path}: {error}")
    return found


def _preview(
    trainer: Any,
    name: str,
    values: Mapping[str, Any],
    images: Mapping[int, Image.Image],
    vae: Any,
    device: torch.device,
) -> _Preview:
    width, height = (values.get(key, 256) // SIDE * SIDE for key in ("width", "height"))
    frames = (values.get("frame_count", 1) - 1) // 4 * 4 + 1
    seed = SEED if values.get("seed") is None else values["seed"]
    shape = (LATENT_CHANNELS, (frames - 1) // 4 + 1, height // 8, width // 8)
    low, high = trainer.config.sample_guide_scale  # in upstream's order
    given = values.get("cfg_scale")
    shift = values.get("discrete_flow_shift", trainer.default_discrete_flow_shift)
    return _Preview(
        name=name,
        prompt=values.get("prompt", ""),
        seed=seed,
        context=values["t5_embeds"].cpu(),
        negative=values["negative_t5_embeds"].cpu() if values.get("negative_prompt") is not None else None,
        scales={Expert.HIGH: high, Expert.LOW: low} if given is None else dict.fromkeys(Expert, given),
        condition=_condition(images, (width, height), frames, vae, device) if images else None,
        scheduler=_scheduler(values.get("sample_steps", 20), shift),
        latent=torch.randn(shape, generator=torch.Generator().manual_seed(seed)),  # on the CPU: the same everywhere
    )


def _scheduler(steps: int, shift: float) -> Any:
    """Upstream's UniPC on sigma = s·t / (1 + (s − 1)·t). Not told its first step, it takes the later of two equal t."""
    unipc = import_host_module("musubi_tuner.wan.utils.fm_solvers_unipc").FlowUniPCMultistepScheduler
    scheduler = unipc(shift=1, use_dynamic_shifting=False)
    scheduler.set_timesteps(steps, device="cpu", shift=shift)
    scheduler.set_begin_index(0)
    return scheduler


def _condition(
    images: Mapping[int, Image.Image], size: tuple[int, int], frames: int, vae: Any, device: torch.device
) -> Tensor:
    """Mask and latents of [first, zeros…, last] (20, F, h, w), as diffusers' pipeline and the caches have them.

    Upstream's own `--end_image_path` appends a latent frame instead, which no expert was trained with.
    """
    video = torch.zeros(3, frames, size[1], size[0])
    for frame, image in images.items():
        pixels = np.array(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
        video[:, frame] = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
    with _autocast(vae, device):
        latents = vae.encode([video.to(device)])[0].float().cpu()
    mask = condition_mask(frames, (latents.shape[-2], latents.shape[-1]), last=-1 in images)
    return torch.cat([mask, latents])


@contextmanager
def _on_device(vae: Any, device: torch.device) -> Iterator[None]:
    vae.to(device)
    try:
        yield
    finally:
        vae.to("cpu")
        clear_device_cache()


def _autocast(vae: Any, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=vae.dtype, enabled=vae.dtype in (torch.float16, torch.bfloat16))


def _decode(vae: Any, preview: _Preview, device: torch.device) -> Frames:
    """Uint8 frames (4F − 3, 8h, 8w, 3) of the latent. Raises FloatingPointError on NaN or infinity."""
    with _autocast(vae, device):
        video = vae.decode([preview.latent.to(device)])[0].float().cpu()
    if not (preview.latent.isfinite().all() and video.isfinite().all()):
        raise FloatingPointError(f"preview {preview.name}: the models produced values that are not finite")
    frames: Frames = ((video / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return frames


def _write(preview: _Preview, frames: Frames, folder: Path, fps: float) -> Path:
    path = folder / f"{preview.name}.mp4"
    steps = len(preview.scheduler.timesteps)
    write_mp4(path, frames, fps, comment={"prompt": preview.prompt, "seed": preview.seed, "steps": steps})
    caption = f"{preview.prompt}, seed {preview.seed}, {steps} steps, both experts"
    save_filmstrip(path.with_suffix(".png"), {preview.name: frames}, caption=caption)
    return path
