"""The embedded host: a small accelerate loop on diffusers' Wan transformer with peft LoRA.

It calls the methods of the seam in the order in which musubi-tuner's `NetworkTrainer.train` and `_run_training_loop`
call them (v0.3.4), so that the extension mixed in front of it is the one that runs inside musubi-tuner.
"""

from __future__ import annotations

import contextlib
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from musubi_ext.adapters.files import write_lora
from musubi_ext.hosts.checkpoints import FINISHED, PRECISIONS, last_name, training_metadata
from musubi_ext.hosts.disk import writing
from musubi_ext.hosts.extension import OrbitExtension
from musubi_ext.hosts.gradients import limit
from musubi_ext.hosts.hooks import Hooks
from musubi_ext.hosts.loop import Run, TrainingLoop
from musubi_ext.hosts.optimizers import build_optimizer, build_schedule, key_values
from musubi_ext.hosts.pocket_model import add_lora, load_expert, lora_layers, lora_state, pad_text, text_tokens
from musubi_ext.hosts.seam import DiTOutput
from musubi_ext.hosts.state_policy import StatePolicy

DTYPE = torch.float32  # of weights, adapters and latents; autocast lowers the precision of single operations


class PocketHost(Hooks):
    """musubi-tuner's trainer on a model that two CPU cores can train. `args.dit` and `args.t5` are folders.

    `train` returns the path of the finished adapter, `args.output_dir`/`args.output_name`.safetensors.
    """

    policy: StatePolicy | None

    def train(self, args: Namespace) -> Path:
        """Train one expert's adapter, going on from a state where `self.policy` finds one.

        `args` belongs to this run: steps follow from epochs, as upstream.
        """
        from accelerate.utils import set_seed

        self.handle_model_specific_args(args)
        policy = self.policy or StatePolicy(args, {})
        state = policy.start()
        set_seed(args.seed)
        data, collator, epoch = self._build_dataset(args)
        accelerator = _accelerator(args)
        transformer = self.load_transformer(accelerator, args, args.dit, "torch", False, "cpu", DTYPE)
        network = self._build_network(args, transformer)
        optimizer = build_optimizer(args, parameter_groups(args, network))
        loader = torch.utils.data.DataLoader(data, batch_size=1, collate_fn=collator)
        if args.max_train_epochs is not None:
            args.max_train_steps = args.max_train_epochs * math.ceil(len(loader) / args.gradient_accumulation_steps)
        schedule = build_schedule(args, optimizer)
        network, optimizer, loader, schedule = accelerator.prepare(network, optimizer, loader, schedule)
        kind = type(optimizer.optimizer)
        self._metadata = training_metadata(
            args, data.num_train_items, len(loader), f"{kind.__module__}.{kind.__name__}"
        )
        run = Run(accelerator, loader, epoch, network, network, optimizer, schedule)
        TrainingLoop(self, args, run, policy).train(state)
        self._metadata[FINISHED] = "true"
        path = self.save(args, run, last_name(args.output_name))
        policy.finished()
        accelerator.free_memory()
        return path

    def handle_model_specific_args(self, args: Namespace) -> None:
        """Read how long the text is that this model was trained with."""
        self.text_tokens = text_tokens(Path(args.t5))

    def _build_dataset(self, args: Namespace) -> tuple[Any, Any, Any]:
        """The host has no data set of its own: the extension brings one."""
        raise NotImplementedError

    def load_transformer(
        self,
        accelerator: Any,
        args: Namespace,
        dit_path: str,
        attn_mode: str,
        split_attn: bool,
        loading_device: str,
        dit_weight_dtype: torch.dtype | None,
    ) -> Any:
        """The frozen expert in the folder `dit_path`; attention is torch's own, the precision float32."""
        return load_expert(Path(dit_path), accelerator.device)

    def _build_network(self, args: Namespace, transformer: Any) -> Any:
        """The transformer with LoRA in it: here both are one module, where upstream keeps them apart."""
        add_lora(transformer, args.network_dim, args.network_alpha)
        if args.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        return transformer

    def process_batch(
        self,
        args: Namespace,
        accelerator: Any,
        transformer: Any,
        network: Any,
        batch: dict[str, Any],
        latents: Tensor,
        noise: Tensor,
        noise_scheduler: Any,
        dit_dtype: torch.dtype,
        network_dtype: torch.dtype,
        vae: Any,
        global_step: int,
    ) -> tuple[Tensor, dict[str, float]]:
        """Noise the batch, predict, compare."""
        trainer: Any = self
        noisy, timesteps = trainer.get_noisy_model_input_and_timesteps(
            args, noise, latents, batch["timesteps"], noise_scheduler, accelerator.device, dit_dtype
        )
        output = self.call_dit(args, accelerator, transformer, latents, batch, noise, noisy, timesteps, network_dtype)
        return self.compute_loss(args, output, timesteps, noise_scheduler, dit_dtype, network_dtype, global_step)

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
    ) -> DiTOutput:
        """(B, 16 + 20, F, h, w) of noisy latents, mask and image latents → velocity (B, 16, F, h, w)."""
        device = accelerator.device
        image = batch["latents_image"].to(device, network_dtype)
        text = pad_text(batch["t5"], self.text_tokens).to(device, network_dtype)
        inputs = torch.cat([noisy_model_input.to(device, network_dtype), image], dim=1)
        with accelerator.autocast(), _activations(args, device):
            pred = transformer(hidden_states=inputs, timestep=timesteps, encoder_hidden_states=text, return_dict=False)[
                0
            ]
        return DiTOutput(pred=pred, target=noise - latents.to(device, network_dtype))

    def compute_loss(
        self,
        args: Namespace,
        output: DiTOutput,
        timesteps: Tensor,
        noise_scheduler: Any,
        dit_dtype: torch.dtype,
        network_dtype: torch.dtype,
        global_step: int,
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the velocity, weighed by `--weighting_scheme` with sigma = (timestep − 1)/1000."""
        loss = nn.functional.mse_loss(output.pred.to(network_dtype), output.target, reduction="none")
        if args.weighting_scheme != "none":
            from diffusers.training_utils import compute_loss_weighting_for_sd3

            sigmas = ((timesteps - 1) / 1000).view(-1, *[1] * (loss.ndim - 1))
            loss = loss * compute_loss_weighting_for_sd3(args.weighting_scheme, sigmas)
        return loss.mean(), {}

    def epoch_begins(self, args: Namespace, run: Run) -> None:
        """Nothing to prepare."""

    def batch_begins(self, args: Namespace, run: Run, latents: Tensor) -> Tensor:
        """The latents as they are: caches hold them normalised."""
        return latents

    def gradients_ready(self, args: Namespace, run: Run) -> None:
        """Clip the gradients of the whole window to `--max_grad_norm`."""
        trainer: Any = self
        trainer.gradients_measured(limit(run.accelerator, list(run.adapter.values()), args.max_grad_norm))

    def batch_done(self, args: Namespace, run: Run, loss: Tensor, metrics: dict[str, float]) -> None:
        """The extension tracks; this host has no log of its own."""

    def save(self, args: Namespace, run: Run, name: str) -> Path:
        """Write the adapter as it stands to `args.output_dir`/`name`."""
        # The extension is asked at every save, where upstream asks once: by then it knows the validation losses.
        position = {"ss_steps": run.position.step, "ss_epoch": run.position.epoch}
        metadata = {**self._metadata, **self.extra_metadata(args), **position}
        precision = PRECISIONS[args.save_precision]
        path = Path(args.output_dir) / name
        state = lora_state(run.accelerator.unwrap_model(run.network), precision)
        with writing(path):
            write_lora(path, state, {key: str(value) for key, value in metadata.items()})
        final = FINISHED in metadata
        self.on_post_save(args, run.accelerator, run.network, run.network, name, precision, metadata, final)
        return path


class PocketTrainer(OrbitExtension, PocketHost):
    """The extension on the embedded host."""


def parameter_groups(args: Namespace, network: nn.Module) -> list[dict[str, Any]]:
    """The adapter's matrices; with `loraplus_lr_ratio` the up matrices learn that much faster (LoRA+, 2402.12354)."""
    ratio = float(key_values("--network_args", args.network_args).get("loraplus_lr_ratio", 1.0))
    layers = list(lora_layers(network))
    down, up = [layer[1] for layer in layers], [layer[2] for layer in layers]
    if ratio == 1.0:
        return [{"params": [matrix for pair in zip(down, up, strict=True) for matrix in pair]}]
    return [{"params": down}, {"params": up, "lr": args.learning_rate * ratio}]


def _accelerator(args: Namespace) -> Any:
    """A fresh accelerator: its settings are shared by all of a process, and the phase before may have had others."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(
        mixed_precision=args.mixed_precision, gradient_accumulation_steps=args.gradient_accumulation_steps
    )


def _activations(args: Namespace, device: torch.device) -> Any:
    """Where a forward pass keeps what backward needs: in main memory with `--gradient_checkpointing_cpu_offload`."""
    if args.gradient_checkpointing_cpu_offload and device.type != "cpu":
        return torch.autograd.graph.save_on_cpu()
    return contextlib.nullcontext()
