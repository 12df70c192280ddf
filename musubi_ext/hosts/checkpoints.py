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
from musubi_ext.orbits.dataset import OrbitDataset, folder_fingerprint
from musubi_ext.schedule.experts import find_task
from musubi_ext.schedule.plan import Phase

PRECISIONS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FINGERPRINT, SETTINGS, FINISHED = "ss_run_fingerprint", "ss_run_settings", "ss_finished"
VALIDATION, BEST, PAIR_ID, DATA = "ss_validation", "ss_best_validation", "ss_pair_id", "ss_dataset_fingerprint"
HOST = "ss_musubi_tuner"  # version and commit
# What may differ between two runs that make the same adapter.
_IRRELEVANT = """
config_file preset host extension dataset_config dit dit_high_noise vae t5 clip experts parallel_experts full_range
min_timestep max_timestep timestep_boundary confirm_boundary preserve_distribution_shape output_dir output_name
pair_name save_every_n_epochs save_every_n_steps save_last_n_epochs save_last_n_steps save_state
save_state_on_train_end save_state_every_n_steps save_last_n_epochs_state save_last_n_steps_state resume
resume_from_huggingface overwrite dry_run no_bands preview_every_n_epochs preview_at_end sample_prompts
sample_every_n_steps sample_every_n_epochs sample_at_first mlflow_tracking_uri mlflow_experiment mlflow_run_name
mlflow_options no_mlflow log_with logging_dir log_prefix log_tracker_name log_tracker_config log_config wandb_run_name
wandb_api_key
huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token huggingface_repo_visibility
save_state_to_huggingface async_upload no_metadata metadata_title metadata_author metadata_description
metadata_license metadata_tags metadata_reso metadata_arch max_data_loader_n_workers persistent_data_loader_workers
ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph show_timesteps dit_dtype vae_dtype vae_cache_cpu fp8_t5
disable_numpy_memmap use_pinned_memory_for_block_swap sdpa
"""
_OF_ONE_EXPERT = ("expert", "low", "high", "base")
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


def best_name(name: str) -> str:
    """NAME-best.safetensors: the adapter at its lowest validation loss."""
    return f"{name}-best.safetensors"


def last_name(name: str) -> str:
    """NAME.safetensors (musubi-tuner's get_last_ckpt_name)."""
    return f"{name}.safetensors"


def run_settings(args: Namespace, phase: Phase, data: DatasetConfig, base: str, processes: int) -> dict[str, Any]:
    """All that an expert's adapter depends on; `base` is the fingerprint of its transformer."""
    flags = {key: value for key, value in vars(args).items() if key not in _IRRELEVANT.split()}
    return {
        **flags,
        "expert": phase.expert.value,
        "low": phase.low,
        "high": phase.high,
        "boundary": phase.boundary,
        "base": base,
        "data": data_fingerprint(data, args.task),
        "processes": processes,
        "torch": torch.__version__,
        "musubi_ext": __version__,
    }


def data_fingerprint(data: DatasetConfig, task: str) -> str:
    """SHA-256 of what is trained on: clips and captions, or without an `[orbit]` table the caches themselves."""
    if not data.orbit_given:
        return folder_fingerprint(data)
    return OrbitDataset(data, i2v=find_task(task).i2v).fingerprint()


def fingerprint(settings: dict[str, Any]) -> str:
    """SHA-256 of settings, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def run_metadata(settings: dict[str, Any], host: str | None = None) -> dict[str, str]:
    """The entries by which a finished expert is recognised; `host`: version and commit of musubi-tuner."""
    return {
        **({} if host is None else {HOST: host}),
        FINGERPRINT: fingerprint(settings),
        SETTINGS: json.dumps(settings, sort_keys=True, default=str),
        DATA: str(settings["data"]),
        PAIR_ID: pair_id(settings),
    }


def pair_id(settings: dict[str, Any]) -> str:
    """What both experts of a pair have in common, in 16 hexadecimal digits."""
    return fingerprint({key: value for key, value in settings.items() if key not in _OF_ONE_EXPERT})[:16]


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
