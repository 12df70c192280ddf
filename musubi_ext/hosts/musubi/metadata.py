"""The metadata of an adapter file: upstream's keys with upstream's meaning, ours beside them, and Wan 2.2 called so.

Keys: musubi-tuner training/trainer_base.py `_run_training_loop` and utils/sai_model_spec.py `build_metadata`. Upstream
writes `wan2.1/lora` for adapters of either Wan and nothing about the expert (FIELD: "LoRA file keys").
"""

from __future__ import annotations

import json
import math
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from musubi_ext.orbits.dataset import OrbitDataset
from musubi_ext.schedule.plan import Phase

ARCHITECTURE = "wan2.2"
IMPLEMENTATION = "https://github.com/Wan-Video/Wan2.2"
# Upstream's `ss_` entries that are arguments under their own names.
_ARGUMENTS = """
output_name learning_rate gradient_checkpointing gradient_checkpointing_cpu_offload gradient_accumulation_steps
max_train_steps lr_warmup_steps lr_scheduler network_module network_dim network_alpha network_dropout mixed_precision
seed training_comment max_grad_norm weighting_scheme logit_mean logit_std mode_scale guidance_scale timestep_sampling
sigmoid_scale discrete_flow_shift
"""
_MINIMUM = ["ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args"]


def of_run(args: Namespace, data: Any, batches: int, optimizer: str, architecture: str) -> dict[str, Any]:
    """What is known before the first step; `optimizer` is its name and arguments as upstream writes them."""
    updates = math.ceil(batches / args.gradient_accumulation_steps)
    found: dict[str, Any] = {f"ss_{name}": getattr(args, name) for name in _ARGUMENTS.split()}
    found |= {
        "ss_num_train_items": data.num_train_items,
        "ss_num_batches_per_epoch": batches,
        "ss_num_epochs": math.ceil(args.max_train_steps / updates),
        "ss_base_model_version": architecture,
        "ss_optimizer": optimizer,
        "ss_fp8_base": bool(args.fp8_base),
        "ss_full_fp16": False,  # upstream turns both off
        "ss_full_bf16": False,
        "ss_datasets": json.dumps(_datasets(data)),
        "ss_sd_model_name": _file_name(args.dit),
    }
    if args.network_args:
        found["ss_network_args"] = json.dumps(dict(word.split("=", 1) for word in args.network_args))
    if args.vae is not None:
        found["ss_vae_name"] = _file_name(args.vae)
    return found


def of_file(args: Namespace, phase: Phase, metadata: dict[str, str]) -> dict[str, str]:
    """The metadata of one file: all of it, or the least with `--no_metadata`, and the model specification.

    What makes a half recognisable (expert, range, settings) stays with `--no_metadata` too: a pair needs it.
    """
    from musubi_tuner.dataset.image_video_dataset import ARCHITECTURE_WAN
    from musubi_tuner.utils import sai_model_spec

    needed = {key for key in metadata if key in _MINIMUM or key in _ours(metadata)}
    kept = {key: value for key, value in metadata.items() if not args.no_metadata or key in needed}
    described: dict[str, str] = sai_model_spec.build_metadata(
        None,
        ARCHITECTURE_WAN,
        time.time(),
        args.metadata_title or args.output_name,
        args.metadata_reso,
        args.metadata_author,
        args.metadata_description,
        args.metadata_license,
        args.metadata_tags,
        timesteps=(round(1000 * phase.low), round(1000 * phase.high)),
        custom_arch=args.metadata_arch or ARCHITECTURE,
    )
    finished = {"ss_training_finished_at": str(time.time())}
    return {**kept, **finished, **described, "modelspec.implementation": IMPLEMENTATION}


def noise_scheduler(args: Namespace) -> Any:
    """Upstream's, which its loss weighting looks sigmas up in."""
    from musubi_tuner.modules.scheduling_flow_match_discrete import FlowMatchDiscreteScheduler

    return FlowMatchDiscreteScheduler(shift=args.discrete_flow_shift, reverse=True, solver="euler")


def save_dtype(args: Namespace, dit_dtype: torch.dtype) -> torch.dtype:
    """`--save_precision`; without it what this host's version saves in: float32, before v0.3.2 the DiT's."""
    from musubi_tuner.utils import train_utils

    if hasattr(train_utils, "resolve_save_dtype"):
        resolved: torch.dtype = train_utils.resolve_save_dtype(args.save_precision)
        return resolved
    return dit_dtype


def sample_is_due(args: Namespace, step: int, epoch: int | None) -> bool:
    """Upstream's rule for its own samples."""
    from musubi_tuner.training.sampling_prompts import should_sample_images

    return bool(args.sample_prompts and should_sample_images(args, step, epoch))


def upload(args: Namespace, path: Path, *, force: bool) -> None:
    """`--huggingface_repo_id`: hand the file to upstream's uploader; `force` waits for the end of it."""
    from musubi_tuner.utils import huggingface_utils

    huggingface_utils.upload(args, str(path), f"/{path.name}", force_sync_upload=force)


def _ours(metadata: dict[str, str]) -> set[str]:
    ours = ("ss_expert", "ss_timestep_boundary", "ss_min_timestep", "ss_max_timestep", "ss_steps", "ss_finished")
    return {key for key in metadata if key in ours or key.startswith(("ss_run_", "ss_validation", "ss_pair_id"))}


def _datasets(data: Any) -> list[dict[str, Any]]:
    if isinstance(data, OrbitDataset):
        return data.metadata()
    return [dataset.get_metadata() for dataset in data.datasets]


def _file_name(path: str | Path) -> str:
    return os.path.basename(path) if os.path.exists(path) else str(path)
