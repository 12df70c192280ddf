"""What the stages compute on a diffusers Wan pipeline: encode, high-noise expert, low-noise expert, decode.

Together they compute what one call of the pipeline computes, the same operations in the same order, so the frames are
the same bit for bit (tests/serving/test_wan_stages.py). Each takes and gives tensors only: what lies between two stages
can be written down, and another process goes on from there. UniPC looks back two steps, so its memory travels along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from musubi_ext.generation.images import fingerprint
from musubi_ext.generation.pipeline import flow_scheduler, to_uint8, token_limit
from musubi_ext.generation.request import GenerationRequest
from musubi_ext.video import Frames
from serving.making.content_cache import ContentCache, content_key
from serving.making.levers import EXPERTS, Levers
from serving.making.step_caches import step_cache

Tensors: TypeAlias = "dict[str, Tensor]"


@dataclass(frozen=True)
class Settings:
    """What every stage is told beside the tensors: the request, and where the experts hand over (share of 1000)."""

    request: GenerationRequest
    boundary: float
    levers: Levers


@torch.no_grad()
def encode(pipeline: Any, settings: Settings, cache: ContentCache) -> Tensors:
    """Prompt embeddings (1, L, D), the condition (1, 20, f, h, w) of first and last frame, and the first noise.

    Embeddings and condition come from `cache` when the same text or pictures were encoded before.
    """
    request, device = settings.request, pipeline._execution_device
    made = {"prompt": _text(pipeline, request.prompt, cache, device)}
    if request.guidance > 1:
        made["negative"] = _text(pipeline, request.negative_prompt, cache, device)
    made["condition"] = _condition(pipeline, request, cache, device)
    made["latents"] = _noise(pipeline, request, made["condition"])
    return made


@torch.no_grad()
def denoise(
    pipeline: Any,
    component: str,
    settings: Settings,
    tensors: Tensors,
    step_done: Callable[[int], None],
    look: Callable[[int, Tensor], None] | None = None,
) -> Tensors:
    """One expert's steps: `tensors` of the stages before it → latents, and UniPC's memory for the next expert.

    `component` is "transformer" (high noise: timesteps at or above the boundary) or "transformer_2". `step_done` is
    told after each step how many of the request's are done; an exception from it ends the stage, and the pipeline
    remains usable. `look` is shown before that the clean latents (1, 16, f, h, w) predicted at the step.
    """
    request, device = settings.request, pipeline._execution_device
    scheduler = flow_scheduler(pipeline.scheduler.config, request.shift)
    scheduler.set_timesteps(request.steps, device=device)
    mine = _own_steps(scheduler, component, settings.boundary)
    if not mine:  # all steps are on the other side of the boundary
        return {name: tensor for name, tensor in tensors.items() if name == "latents" or name.startswith("unipc.")}
    here = {name: tensor.to(device) for name, tensor in tensors.items()}
    _restore(scheduler, here)
    latents, model = here["latents"], getattr(pipeline, component)
    dtype = model.dtype  # diffusers looks through all its layers for it: once, not at every step
    here |= {name: here[name].to(dtype) for name in ("prompt", "negative") if name in here}
    guidance = (request.guidance, request.guidance_2)[EXPERTS.index(component)]
    with step_cache(pipeline, component, len(mine), settings.levers):
        for index in mine:
            t = scheduler.timesteps[index]
            inputs = torch.cat([latents, here["condition"]], dim=1).to(dtype)
            noise = _predict(model, inputs, t, here, guidance, request.guidance > 1)
            latents = scheduler.step(noise, t, latents, return_dict=False)[0]
            if look is not None:
                look(index + 1, scheduler.model_outputs[-1])
            step_done(index + 1)
    return {"latents": latents, **_memory(scheduler)}


@torch.no_grad()
def decode(pipeline: Any, latents: Tensor) -> Frames:
    """Latents (1, 16, f, h, w) → uint8 frames (F, H, W, 3). Raises FloatingPointError on NaN or infinity."""
    vae = pipeline.vae
    latents = latents.to(pipeline._execution_device, vae.dtype)
    mean, std = (
        torch.tensor(values).view(1, vae.config.z_dim, 1, 1, 1).to(latents.device, latents.dtype)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    video = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0]  # the pipeline's own order of divisions
    frames = pipeline.video_processor.postprocess_video(video, output_type="np")[0]
    return to_uint8(frames)


def steps_done(tensors: Tensors) -> int:
    """How many steps of the request lie behind what `denoise` gave."""
    return int(tensors["unipc.counts"][2]) if "unipc.counts" in tensors else 0


def _text(pipeline: Any, text: str, cache: ContentCache, device: Any) -> Tensor:
    limit = token_limit(pipeline)

    def compute() -> Tensors:
        embeds, _ = pipeline.encode_prompt(text, None, False, max_sequence_length=limit, device=device)
        return {"embeds": embeds}

    return cache.get(content_key("text", text, limit), compute)["embeds"]


def _condition(pipeline: Any, request: GenerationRequest, cache: ContentCache, device: Any) -> Tensor:
    """Mask and image latents; `prepare_latents` encodes, given noise so that it draws none."""
    pictures = [request.first_frame, request.last_frame]

    def compute() -> Tensors:
        first, last = (
            None if picture is None else _pixels(pipeline, picture, request).to(device) for picture in pictures
        )
        _, condition = pipeline.prepare_latents(
            first, 1, pipeline.vae.config.z_dim, request.size[1], request.size[0], request.frames,
            torch.float32, device, None, torch.zeros(1, device=device), last,
        )  # fmt: skip
        return {"condition": condition}

    prints = [None if picture is None else fingerprint(picture) for picture in pictures]
    return cache.get(content_key("condition", prints, request.size, request.frames), compute)["condition"]


def _pixels(pipeline: Any, picture: Image.Image, request: GenerationRequest) -> Tensor:
    pixels: Tensor = pipeline.video_processor.preprocess(picture, height=request.size[1], width=request.size[0])
    return pixels.to(torch.float32)


def _noise(pipeline: Any, request: GenerationRequest, condition: Tensor) -> Tensor:
    """Drawn on the CPU, so that the seed means the same on every device; `randn_tensor` draws for the pipeline too."""
    shape = (1, pipeline.vae.config.z_dim, *condition.shape[2:])
    generator = torch.Generator("cpu").manual_seed(request.seed)
    noise: Tensor = randn_tensor(shape, generator=generator, device=torch.device("cpu"), dtype=torch.float32)
    return noise


def _own_steps(scheduler: Any, component: str, boundary: float) -> range:
    high = int((scheduler.timesteps >= boundary * scheduler.config.num_train_timesteps).sum())
    return range(high) if component == EXPERTS[0] else range(high, len(scheduler.timesteps))


def _predict(model: Any, inputs: Tensor, t: Tensor, here: Tensors, guidance: float, guided: bool) -> Tensor:
    """The velocity; without guidance from the prompt alone, as the pipeline decides by the high expert's scale."""
    given = {
        "hidden_states": inputs,
        "timestep": t.expand(inputs.shape[0]),
        "encoder_hidden_states_image": None,
        "attention_kwargs": None,
        "return_dict": False,
    }
    with model.cache_context("cond"):
        noise: Tensor = model(encoder_hidden_states=here["prompt"], **given)[0]
    if not guided:
        return noise
    with model.cache_context("uncond"):
        without: Tensor = model(encoder_hidden_states=here["negative"], **given)[0]
    return without + guidance * (noise - without)


def _memory(scheduler: Any) -> Tensors:
    """What UniPC keeps from step to step; the last sample is that before its last step."""
    counts = [scheduler.lower_order_nums, scheduler.this_order, scheduler.step_index]
    kept = {"unipc.counts": torch.tensor(counts)}
    for index, output in enumerate(scheduler.model_outputs):
        if output is not None:
            kept[f"unipc.output.{index}"] = output
            kept[f"unipc.timestep.{index}"] = scheduler.timestep_list[index].reshape(1)
    kept["unipc.last_sample"] = scheduler.last_sample
    return kept


def _restore(scheduler: Any, tensors: Tensors) -> None:
    """Give a fresh scheduler the memory of the one that took the steps before, if there were any."""
    if "unipc.counts" not in tensors:
        return
    counts = (int(count) for count in tensors["unipc.counts"])
    scheduler.lower_order_nums, scheduler.this_order, scheduler._step_index = counts
    for index in range(len(scheduler.model_outputs)):
        if f"unipc.output.{index}" in tensors:
            scheduler.model_outputs[index] = tensors[f"unipc.output.{index}"]
            scheduler.timestep_list[index] = tensors[f"unipc.timestep.{index}"][0]
    scheduler.last_sample = tensors["unipc.last_sample"]
