"""Load a Wan2.2 image-to-video pipeline from a local folder: checked first, offline always, on the device asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from musubi_ext.errors import Problems, UserError
from musubi_ext.generation.expert_files import load_experts
from musubi_ext.pocket.config import pipeline_path
from musubi_ext.quiet import quiet_loading

if TYPE_CHECKING:
    from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline

POCKET = "pocket-i2v"
DEVICES = ("cpu", "cuda")
_REMEDY = {  # is it the embedded model that is missing?
    False: f"give a local diffusers pipeline folder of Wan2.2-I2V-A14B, or {POCKET}",
    True: "the package is incomplete: install it again, or give the folder that musubi_ext.pocket.build wrote",
}
_MAX_TOKENS = 512  # what Wan was trained with; tokenizers that know a smaller limit are given theirs
_PARTS = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer", "transformer_2")


def resolve_base(base: Path | str) -> Path:
    """The pipeline folder that `base` names: "pocket-i2v", or a local diffusers folder with both experts.

    Raises UserError with everything that the folder lacks; no weights are read.
    """
    folder = pipeline_path() if str(base) == POCKET else Path(base)
    problems = Problems()
    if not (folder / "model_index.json").is_file():
        found = "no model_index.json" if folder.is_dir() else "no such folder"
        problems.add(f"base {base}", found, _REMEDY[str(base) == POCKET])
    else:
        _check_index(folder, problems)
    problems.raise_if_any()
    return folder


def choose_device(name: str) -> torch.device:
    """ "cpu" or "cuda", as asked. Raises UserError where there is no such device: never another one instead."""
    if name not in DEVICES:
        raise UserError(f"device {name}: expected one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no CUDA device on this machine (use --device cpu, or a CUDA torch)")
    return torch.device(name)


def load_pipeline(
    base: Path | str = POCKET,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    experts: tuple[Path, Path] | None = None,
) -> WanImageToVideoPipeline:
    """The pipeline in `base`, from safetensors on this disk only, without its own progress bar.

    `dtype` is that of the experts and the text encoder: float32 on a CPU and bfloat16 on CUDA unless given. The VAE
    is float32 always, as Wan's own code runs it. `experts`: files of the high- and the low-noise expert in place of the
    folder's, see expert_files.py. Raises UserError for a folder, file or device that cannot be used.
    """
    folder, target = resolve_base(base), choose_device(device)
    chosen = dtype or (torch.bfloat16 if target.type == "cuda" else torch.float32)
    dtypes = {"default": chosen, "vae": torch.float32}
    own = load_experts(*experts, folder, chosen) if experts else {}
    with quiet_loading():
        from diffusers import WanImageToVideoPipeline

        pipeline = WanImageToVideoPipeline.from_pretrained(
            folder, dtype=dtypes, local_files_only=True, use_safetensors=True, **own
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(target)


def flow_scheduler(config: Any, shift: float) -> UniPCMultistepScheduler:
    """UniPC on flow sigmas, sigma = s·t / (1 + (s − 1)·t), from a scheduler's config with another shift s.

    A fresh one for every video: UniPC keeps the outputs of earlier steps.
    """
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler.from_config(
        config, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def token_limit(pipeline: Any) -> int:
    """How many tokens of a prompt the text encoder reads."""
    return int(min(pipeline.tokenizer.model_max_length, _MAX_TOKENS))


def prompt_notes(pipeline: Any, prompt: str, negative_prompt: str) -> tuple[str, ...]:
    """A sentence for each text that is longer than what is read of it."""
    notes, limit = [], token_limit(pipeline)
    for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        found = len(pipeline.tokenizer(text, verbose=False).input_ids)
        if found > limit:
            notes.append(f"{name}: {found} tokens, of which the text encoder reads the first {limit}")
    return tuple(notes)


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] (F, H, W, 3) → uint8, rounded. Raises FloatingPointError on NaN or infinity."""
    if not np.isfinite(frames).all():
        raise FloatingPointError("the model produced values that are not finite; use float32, or a lower strength")
    return np.asarray(np.rint(frames * 255.0), dtype=np.uint8)


def expert_steps(folder: Path, steps: int, shift: float) -> tuple[int, int]:
    """How many of `steps` the high and the low expert take: timesteps ≥ 1000·boundary are the high one's."""
    boundary = _read(folder / "model_index.json")["boundary_ratio"]
    scheduler = flow_scheduler(_read(folder / "scheduler" / "scheduler_config.json"), shift)
    scheduler.set_timesteps(steps)
    high = int((scheduler.timesteps >= boundary * scheduler.config.num_train_timesteps).sum())
    return high, steps - high


def _check_index(folder: Path, problems: Problems) -> None:
    index_path = folder / "model_index.json"
    try:
        index = _read(index_path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        problems.add(index_path, f"not JSON: {error}", "copy the pipeline again")
        return
    if index.get("_class_name") != "WanImageToVideoPipeline":
        problems.add(index_path, f"_class_name: expected WanImageToVideoPipeline, found {index.get('_class_name')}")
    if index.get("boundary_ratio") is None:
        problems.add(index_path, "boundary_ratio: expected a number, found none", "a Wan2.2 pipeline with two experts")
    for part in _PARTS:
        if not (folder / part).is_dir():
            problems.add(folder / part, "no such folder", "copy the pipeline again, complete")


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
