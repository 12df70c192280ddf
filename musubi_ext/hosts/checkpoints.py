"""An expert's files: names as upstream gives them, metadata, and whether an expert is finished.

Metadata holds no clock times and no session ids, so that the same run writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from musubi_ext import __version__
from musubi_ext.adapters.tensors import read_header
from musubi_ext.errors import UserError
from musubi_ext.orbits.config import DatasetConfig
from musubi_ext.orbits.dataset import OrbitDataset
from musubi_ext.schedule.plan import Phase

PRECISIONS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FINGERPRINT, SETTINGS, FINISHED, VALIDATION = "ss_run_fingerprint", "ss_run_settings", "ss_finished", "ss_validation"
# What may differ between two runs that make the same adapter.
_IRRELEVANT = """
config_file dataset_config dit dit_high_noise vae t5 experts parallel_experts full_range min_timestep max_timestep
timestep_boundary confirm_boundary preserve_distribution_shape output_dir output_name pair_name save_every_n_epochs
save_every_n_steps overwrite dry_run validate_every_n_steps mlflow_tracking_uri mlflow_experiment mlflow_run_name
no_mlflow max_data_loader_n_workers persistent_data_loader_workers sdpa
"""
_RECORDED = """
output_name learning_rate max_train_steps gradient_accumulation_steps gradient_checkpointing
gradient_checkpointing_cpu_offload lr_warmup_steps lr_scheduler network_module network_dim network_alpha mixed_precision
seed training_comment max_grad_norm weighting_scheme logit_mean logit_std timestep_sampling sigmoid_scale
discrete_flow_shift
"""  # arguments that stand in the metadata under musubi-tuner's keys


def epoch_name(name: str, epoch: int) -> str:
    """NAME-000001.safetensors (musubi-tuner's get_epoch_ckpt_name)."""
    return f"{name}-{epoch:06d}.safetensors"


def step_name(name: str, step: int) -> str:
    """NAME-step00000100.safetensors (musubi-tuner's get_step_ckpt_name)."""
    return f"{name}-step{step:08d}.safetensors"


def last_name(name: str) -> str:
    """NAME.safetensors (musubi-tuner's get_last_ckpt_name)."""
    return f"{name}.safetensors"


def run_settings(args: Namespace, phase: Phase, data: DatasetConfig, base: str) -> dict[str, Any]:
    """All that an expert's adapter depends on; `base` is the fingerprint of its transformer."""
    flags = {key: value for key, value in vars(args).items() if key not in _IRRELEVANT.split()}
    return {
        **flags,
        "expert": phase.expert.value,
        "low": phase.low,
        "high": phase.high,
        "boundary": phase.boundary,
        "base": base,
        "data": OrbitDataset(data).fingerprint(),
        "torch": torch.__version__,
        "musubi_ext": __version__,
    }


def fingerprint(settings: dict[str, Any]) -> str:
    """SHA-256 of settings, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def run_metadata(settings: dict[str, Any]) -> dict[str, str]:
    """The entries by which a finished expert is recognised."""
    return {FINGERPRINT: fingerprint(settings), SETTINGS: json.dumps(settings, sort_keys=True, default=str)}


def is_finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether `path` is the finished adapter of these settings; False when there is no file.

    Raises UserError when it holds something else: which settings differ, or that it was not made by this program.
    """
    if not path.exists():
        return False
    found = read_metadata(path)
    if found.get(FINISHED) == "true" and found.get(FINGERPRINT) == fingerprint(settings):
        return True
    raise UserError(f"{path}: {_difference(found, settings)} (add --overwrite, or choose another --output_name)")


def read_metadata(path: Path) -> dict[str, str]:
    """A safetensors file's metadata. Raises UserError when the file is damaged."""
    return dict(read_header(path).get("__metadata__", {}))


def _difference(found: dict[str, str], settings: dict[str, Any]) -> str:
    if SETTINGS not in found:
        return "a file that this program did not make is in the way"
    before, now = json.loads(found[SETTINGS]), json.loads(json.dumps(settings, default=str))
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    changes = [f"{key} {before.get(key)} → {now.get(key)}" for key in keys]
    return f"made with other settings: {', '.join(changes) or 'not finished'}"


def training_metadata(args: Namespace, items: int, batches: int, optimizer: str) -> dict[str, Any]:
    """`ss_*` entries under musubi-tuner's keys (trainer_base.py `_run_training_loop`)."""
    return {
        **{f"ss_{name}": getattr(args, name) for name in _RECORDED.split()},
        "ss_num_train_items": items,
        "ss_num_batches_per_epoch": batches,
        "ss_base_model_version": "wan",
        "ss_optimizer": optimizer,
    }
