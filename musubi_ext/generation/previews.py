"""Videos of the sample prompts in the middle of a training, by both experts with their adapters as they stand.

Upstream's own samples come from the low-noise expert alone (`WanNetworkTrainer.do_inference`), which never runs above
the boundary: they show an orbit that nobody will ever see. This is for models in diffusers' layout, as the pocket host
trains them; `musubi_ext.hosts.musubi.previews` renders with musubi-tuner's own transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musubi_ext import rng
from musubi_ext.adapters.formats import convert
from musubi_ext.adapters.keys import Format
from musubi_ext.adapters.peft_metadata import peft_config
from musubi_ext.adapters.updates import check_updates, listed, updates
from musubi_ext.errors import Problems, UserError
from musubi_ext.filmstrip import save_filmstrip
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.generation.pair import ADAPTER
from musubi_ext.generation.pipeline import POCKET
from musubi_ext.generation.presets import preset
from musubi_ext.generation.sample_prompts import SamplePrompt
from musubi_ext.generation.video import Video
from musubi_ext.schedule.experts import Expert
from musubi_ext.video import write_mp4


def render_previews(
    pipeline_folder: Path,
    adapters: Mapping[Expert, Mapping[str, Tensor] | None],
    prompts: Sequence[SamplePrompt],
    folder: Path,
    stem: str,
    device: torch.device | str,
) -> list[Path]:
    """Write `{stem}_{index:02d}.mp4` to `folder` for each prompt, and a filmstrip beside it (.png); returns the videos.

    `adapters`: each expert's LoRA in musubi keys, with its own alpha; None leaves the expert as it is. The same
    adapters saved as a pair give the same pixels through `CircleRotate`. Frame rate and, for prompts without one, the
    guidance scale are the pocket task's. Global random states of Python, NumPy and torch are afterwards what they
    were, so a training with previews equals one without. Raises UserError for an adapter or image that cannot be used.
    """
    with rng.untouched():
        rotate = CircleRotate(pipeline_folder, device=torch.device(device).type)
        _attach(rotate.pipeline, adapters)
        return [_render(rotate, prompt, folder / f"{stem}_{index:02d}.mp4") for index, prompt in enumerate(prompts)]


def _attach(pipeline: Any, adapters: Mapping[Expert, Mapping[str, Tensor] | None]) -> None:
    """Put the LoRAs in. Unlike a pair of `AdapterPair.apply` one may be absent, or zero as before its first step."""
    problems = Problems()
    for expert, weights in adapters.items():
        if weights is not None:
            check_updates(weights, f"{expert.value}-noise adapter", problems)
    problems.raise_if_any()
    for expert, weights in adapters.items():
        if weights is not None:
            _load(pipeline, expert, weights)


def _load(pipeline: Any, expert: Expert, weights: Mapping[str, Tensor]) -> None:
    """As `adapters.attach` loads one LoRA: the file's own matrices, alpha as configuration."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model, found = getattr(pipeline, expert.component), updates(weights)
    matrices = {key: tensor for key, tensor in convert(weights, Format.DIFFUSERS).items() if not key.endswith(".alpha")}
    pipeline.load_lora_into_transformer(
        {key: tensor.detach().to(model.device, model.dtype, copy=True) for key, tensor in matrices.items()},
        transformer=model,
        adapter_name=ADAPTER,
        metadata=peft_config(found),
        _pipeline=pipeline,
        low_cpu_mem_usage=True,
    )
    loaded = {name for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    if missing := sorted({module.diffusers for module in found} - loaded):  # diffusers only logs what it passed over
        raise UserError(f"{expert.value}-noise adapter: the pipeline has no layers {listed(missing)}")


def _render(rotate: CircleRotate, prompt: SamplePrompt, path: Path) -> Path:
    settings = preset(POCKET)
    video = rotate.run(prompt.request(cfg=settings["guidance"], fps=settings["fps"]))
    write_mp4(path, video.frames, video.fps, comment=_comment(video, path.stem))
    save_filmstrip(path.with_suffix(".png"), {path.stem: video.frames}, caption=_caption(prompt))
    return path


def _comment(video: Video, name: str) -> dict[str, Any]:
    """What the mp4 says of itself; the adapters are no saved pair, so it names the preview instead."""
    return {"request": video.request, "versions": video.versions | {"pair": None, "preview": name}}


def _caption(prompt: SamplePrompt) -> str:
    return f"{prompt.prompt}, seed {prompt.seed}, {prompt.steps} steps, both experts"
