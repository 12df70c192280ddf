"""Flags of musubi-tuner that the pocket host cannot honour, each with the reason: refused by name, never ignored.

The list is the rest of musubi-tuner v0.3.4's `setup_parser_common` and `wan_setup_parser`; the flags that are honoured
are in `arguments.py`.
"""

from __future__ import annotations

_PRECISION = "the pocket host keeps weights in float32: they are small; use --mixed_precision bf16"
_SWAP = "a pocket expert fits in memory whole, nothing is swapped or offloaded"
_COMPILE = "the pocket host does not compile"
_ATTENTION = "the pocket host runs torch's own attention: use --sdpa"
_LOGS = "runs are tracked in MLflow: use --mlflow_tracking_uri and --mlflow_experiment"
_SAMPLES = "videos are made by both experts together: use --preview_every_n_epochs with --sample_prompts"
_STATE = "states stay where they are written"
_HUB = "nothing is uploaded: publish the finished pair yourself"
_PROCESSES = "the pocket host runs one process per expert: use --parallel_experts"
_SCHEDULE = "use --lr_scheduler with --lr_warmup_steps, --lr_scheduler_num_cycles and --lr_scheduler_power"
_METADATA = "the adapters' metadata is fixed: use --training_comment"
_NETWORK = "a pair is a plain LoRA on all ten linears of every block"
_TIMESTEPS = "timesteps are drawn from the whole density inside the expert's range"
_MODEL = "the pocket model has no such part"

_REASONS = {
    _PRECISION: "fp8_base fp8_scaled fp8_t5 full_fp16 full_bf16 vae_dtype",
    _SWAP: "blocks_to_swap vae_cache_cpu offload_inactive_dit use_pinned_memory_for_block_swap block_swap_h2d_only "
    "block_swap_ring_size img_in_txt_in_offloading disable_numpy_memmap",
    _COMPILE: "compile compile_backend compile_mode compile_dynamic compile_fullgraph compile_cache_size_limit "
    "dynamo_backend dynamo_mode dynamo_fullgraph dynamo_dynamic cuda_allow_tf32 cuda_cudnn_benchmark",
    _ATTENTION: "flash_attn sage_attn xformers flash3 split_attn",
    _LOGS: "log_with logging_dir log_prefix log_tracker_name log_tracker_config log_config "
    "wandb_run_name wandb_api_key",
    _SAMPLES: "sample_at_first sample_every_n_steps sample_every_n_epochs",
    _STATE: "resume_from_huggingface save_state_to_huggingface",
    _HUB: "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token "
    "huggingface_repo_visibility async_upload",
    _PROCESSES: "ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph",
    _SCHEDULE: "lr_scheduler_type lr_scheduler_args lr_decay_steps lr_scheduler_timescale lr_scheduler_min_lr_ratio",
    _METADATA: "no_metadata metadata_title metadata_author metadata_description metadata_license metadata_tags "
    "metadata_reso metadata_arch",
    _NETWORK: "network_weights network_dropout dim_from_weights scale_weight_norms base_weights "
    "base_weights_multiplier",
    _TIMESTEPS: "num_timestep_buckets show_timesteps mode_scale flow_shift guidance_scale",
    _MODEL: "clip one_frame force_v2_1_time_embedding",
}
REFUSED: dict[str, str] = {flag: reason for reason, flags in _REASONS.items() for flag in flags.split()}
"""Flag name without dashes → why the pocket host refuses it."""
