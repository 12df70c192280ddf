"""The methods of musubi-tuner's Wan trainer that we override or call, as v0.3.0 to v0.3.4 spell their parameters.

Read from `training/trainer_base.py` (NetworkTrainer) and `wan_train_network.py` (WanNetworkTrainer over it). They
are internal to musubi-tuner: one that changed would be overridden by a method that is never called, or is called
with the wrong values, without a word. So they are compared at start.
"""

from __future__ import annotations

import inspect
from inspect import Parameter
from typing import Any

from musubi_ext.errors import Problems

EXPECTED: dict[str, str] = {  # in the order in which a run calls them; defaults are left out
    "__init__": "self",
    "train": "self, args",
    "_validate_args_and_init": "self, args",
    "handle_model_specific_args": "self, args",
    "_init_session": "self, args",
    "_build_dataset": "self, args",
    "_prepare_accelerator_and_dtypes": "self, args",
    "_prepare_sampling": "self, args, accelerator, vae_dtype",
    "process_sample_prompts": "self, args, accelerator, sample_prompts",
    "load_vae": "self, args, vae_dtype, vae_path",
    "_load_dit_and_swap": "self, args, accelerator, dit_weight_dtype",
    "load_transformer": "self, accelerator, args, dit_path, attn_mode, split_attn, loading_device, dit_weight_dtype",
    "on_transformer_loaded": "self, args, accelerator, transformer",
    "_build_network": "self, args, accelerator, transformer, vae, weight_dtype",
    "convert_weight_keys": "self, weights_sd, network_module",
    "_build_optimizer_and_dataloader": "self, args, accelerator, network, train_dataset_group, collator, transformer",
    "extra_trainable_params": "self, args, accelerator, network, transformer, trainable_params",
    "_prepare_with_accelerator": "self, args, accelerator, transformer, network, optimizer, train_dataloader, "
    "lr_scheduler, weight_dtype, dit_dtype, dit_weight_dtype",
    "_register_hooks_and_resume": "self, args, accelerator, network",
    "_run_training_loop": "self, args, accelerator, session_id, training_started_at, train_dataset_group, "
    "train_dataloader, current_epoch, transformer, network, training_model, optimizer, optimizer_name, "
    "optimizer_args, optimizer_train_fn, optimizer_eval_fn, lr_scheduler, lr_descriptions, vae, sample_parameters, "
    "dit_dtype, network_dtype",
    "extra_metadata": "self, args",
    "on_train_start": "self, args, accelerator, network, transformer, optimizer",
    "process_batch": "self, args, accelerator, transformer, network, batch, latents, noise, noise_scheduler, "
    "dit_dtype, network_dtype, vae, global_step",
    "scale_shift_latents": "self, latents",
    "get_noisy_model_input_and_timesteps": "self, args, noise, latents, timesteps, noise_scheduler, device, dtype",
    "call_dit": "self, args, accelerator, transformer, latents, batch, noise, noisy_model_input, timesteps, "
    "network_dtype, **kwargs",
    "compute_loss": "self, args, output, timesteps, noise_scheduler, dit_dtype, network_dtype, global_step",
    "on_post_optimizer_step": "self, args, accelerator, network, transformer, sync_gradients, global_step",
    "generate_step_logs": "self, args, current_loss, avr_loss, lr_scheduler, lr_descriptions, optimizer, "
    "keys_scaled, mean_norm, maximum_norm",
    "extra_step_logs": "self, args, logs",
    "on_before_sample_images": "self, accelerator, args, epoch, steps, vae, transformer, network, "
    "sample_parameters, dit_dtype",
    "show_timesteps": "self, args",
    "sample_images": "self, accelerator, args, epoch, steps, vae, transformer, sample_parameters, dit_dtype",
    "do_inference": "self, accelerator, args, sample_parameter, vae, dit_dtype, transformer, discrete_flow_shift, "
    "sample_steps, width, height, frame_count, generator, do_classifier_free_guidance, guidance_scale, cfg_scale, "
    "image_path, control_video_path",
    "on_after_sample_images": "self, accelerator, args, epoch, steps, vae, transformer, network, "
    "sample_parameters, dit_dtype",
    "on_post_save": "self, args, accelerator, network, transformer, ckpt_name, save_dtype, metadata, force_sync_upload",
}
# Where a version differs and our overrides allow for it: they pass on whatever they are given.
OTHERWISE: dict[str, dict[str, str]] = {
    "0.3.0": {"compute_loss": "self, args, output, timesteps, noise_scheduler, dit_dtype, network_dtype"},
}
STARS: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}


def expected(version: str) -> dict[str, str]:
    """Method name → its parameters in that version of musubi-tuner, "0.3.4"."""
    return EXPECTED | OTHERWISE.get(version, {})


def check_seams(trainer: type, version: str) -> None:
    """Compare a trainer class with what we override and call. Raises UserError naming every method that differs."""
    problems = Problems()
    for name, wanted in expected(version).items():
        found = parameters(trainer, name)
        if found != wanted:
            problems.add(
                f"{trainer.__name__}.{name}",
                f"expected ({wanted}), found {'no such method' if found is None else f'({found})'} in musubi-tuner "
                f"{version}",
                "this checkout is not what was released: `musubi-ext host install` fetches one that is",
            )
    problems.raise_if_any()


def parameters(trainer: type, name: str) -> str | None:
    """Names of a method's parameters as in the table, or None when the class has no such method."""
    method = getattr(trainer, name, None)
    if not callable(method):
        return None
    return ", ".join(STARS.get(value.kind, "") + key for key, value in inspect.signature(method).parameters.items())
