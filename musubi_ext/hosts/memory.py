"""How much memory one expert's training will need: an estimate, from shapes and flags alone, before anything is loaded.

Read off musubi-tuner v0.3.4's `wan/modules/model.py`, and within 3 % of the peak that small ones of its models allocate
on a CPU (tests/host/test_host_arguments.py). Per token (L = F·(h/2)·(w/2)·batch of them, latents F×h×w), with width d,
feed-forward width f, rank r, and b bytes per element of the compute type:

* constants of the step, 28·d: the timestep embedding of every token, L×d, and its projection, L×6×d, in float32
  (Wan2.2 embeds a timestep per token);
* a block's saved tensors, 56·d + 9·b·d + 2·b·f + 8·b·r: the modulation (6 × float32) and eight float32 tensors (norms,
  gates); nine of b bytes (inputs of the linears, q, k, v and results of both attentions); the hidden layer before and
  after GELU; what eight of the LoRAs pass from `down` to `up` (k and v of cross-attention read the text);
* at the peak, in the last block's feed-forward, gradients of 2·b·f + 2.5·b·d; without gradient checkpointing the head
  before it may need more, 22·d, while every block still holds its tensors.

`--sdpa` never builds the L×L attention matrix, so all of it is linear in tokens. With gradient checkpointing each
block keeps its input only, b·d, and one block at a time its saved tensors; with CPU offload the inputs wait in main
memory. Weights that are not of the compute type are cast when used, and the casts are kept for the backward pass.

Left out: the allocator's fragmentation, the text and image encoders of sample prompts (they are not on the device
during a step), and the process's own main memory.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB = 1 << 30
CONTEXT = GIB  # allowance for the CUDA context and the libraries' workspaces
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
# Bytes of state per parameter: AdamW's two float32 moments, or two bytes and a scale for each 256 (bitsandbytes).
STATE = {"": 8.0, "adamw": 8.0, "adamw8bit": 2.0 + 8 / 256, "pagedadamw8bit": 2.0 + 8 / 256}


@dataclass(frozen=True)
class DitShape:
    """The sizes of a Wan2.2 transformer that decide its memory."""

    dim: int
    ffn_dim: int
    num_layers: int
    in_dim: int = 36
    freq_dim: int = 256
    text_dim: int = 4096
    out_dim: int = 16

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> DitShape:
        """From an entry of musubi-tuner's WAN_CONFIGS; `text_dim`, which it lacks, is its model's own 4096."""
        return cls(config["dim"], config["ffn_dim"], config["num_layers"], config["in_dim"], config["freq_dim"])

    @property
    def block_linears(self) -> int:
        """Weights of a block's ten linears, the part that block swap moves."""
        return 8 * self.dim**2 + 2 * self.dim * self.ffn_dim

    @property
    def block(self) -> int:
        """Parameters of a block: the linears and their biases, four norms of q and k, norm3, the modulation."""
        return self.block_linears + 9 * self.dim + self.ffn_dim + 4 * self.dim + 2 * self.dim + 6 * self.dim

    @property
    def parameters(self) -> int:
        """Parameters of the whole transformer."""
        d = self.dim
        patch = d * (self.in_dim * 4 + 1)
        text, time = d * (self.text_dim + 1) + d * (d + 1), d * (self.freq_dim + 1) + d * (d + 1)
        head = self.out_dim * 4 * (d + 1) + 2 * d
        return self.num_layers * self.block + patch + text + time + 6 * d * (d + 1) + head

    def lora_parameters(self, rank: int) -> int:
        """Parameters of a LoRA on all ten linears of every block: 153,354,240 for rank 32 of the 14B experts."""
        return self.num_layers * rank * (18 * self.dim + 2 * self.ffn_dim)


@dataclass(frozen=True)
class Memory:
    """Bytes by part. An estimate: see the module."""

    weights: int  # the expert, without swapped blocks
    casts: int  # of weights that are not of the compute type
    adapter: int  # LoRA parameters, float32
    gradients: int
    optimizer: int | None  # None: unavailable, the optimizer is not one we know
    activations: int
    context: int
    loading: int  # the device's peak while the file is read, context aside
    host_loading: int  # the same of main memory
    host_weights: int  # swapped blocks, and their two staging copies
    host_activations: int  # offloaded inputs of blocks

    @property
    def step(self) -> int:
        """The device's peak in a training step; without the optimizer's state where that is unavailable."""
        parts = (self.weights, self.casts, self.adapter, self.gradients, self.optimizer or 0, self.activations)
        return sum(parts) + self.context

    @property
    def device(self) -> int:
        """The device's peak over loading and training."""
        return max(self.step, self.loading + self.context)

    @property
    def host(self) -> int:
        """The peak of main memory over loading and training, the process itself aside."""
        return max(self.host_loading, self.host_weights + self.host_activations)

    def lines(self) -> list[str]:
        """A line per part, for `--dry_run` and `doctor`."""
        parts = [f"{name} {_gib(getattr(self, name))}" for name in DEVICE_PARTS]
        least = "at least " if self.optimizer is None else ""
        return [
            f"device memory, estimated: {least}{_gib(self.device)} ({', '.join(parts)}; loading {_gib(self.loading)})",
            f"main memory, estimated: {_gib(self.host)} (swapped blocks {_gib(self.host_weights)}, activations"
            f" {_gib(self.host_activations)}; loading {_gib(self.host_loading)})",
        ]


DEVICE_PARTS = ("weights", "casts", "adapter", "gradients", "optimizer", "activations", "context")


def estimate(
    shape: DitShape, latent: tuple[int, int, int], args: Namespace, *, batch: int = 1, file_type: str = "fp16"
) -> Memory:
    """The memory of one phase on one device, for latents (F, h, w) and weights stored as `file_type` (BYTES).

    Of `args`: mixed_precision, fp8_base, fp8_scaled, blocks_to_swap, gradient_checkpointing, network_dim,
    gradient_checkpointing_cpu_offload, force_v2_1_time_embedding, optimizer_type; what a host has no flag for counts as
    not given. A step of `gradient_accumulation_steps` needs no more.
    """
    stored = BYTES[file_type]
    held = 1 if _flag(args, "fp8_base") else max(stored, 2)  # fp8 files are held in 16 bits unless fp8 is asked for
    compute = 2 if _flag(args, "mixed_precision") in ("fp16", "bf16") else held
    rest = max(stored, 2) if _flag(args, "fp8_scaled") else held  # scaling is for the blocks' linears alone
    swapped = min(int(_flag(args, "blocks_to_swap") or 0), shape.num_layers)
    lora = shape.lora_parameters(int(_flag(args, "network_dim") or 4))  # musubi-tuner's default rank
    state = STATE.get(str(_flag(args, "optimizer_type") or "").lower().rpartition(".")[2])
    on_device, on_host = _activations(shape, latent[0] * (latent[1] // 2) * (latent[2] // 2) * batch, args, compute)
    linears, away = shape.num_layers * shape.block_linears, swapped * shape.block_linears * held
    weights = linears * held + (shape.parameters - linears) * rest
    file = weights if _flag(args, "fp8_scaled") else shape.parameters * stored  # scaled as it is read, or cast after
    return Memory(
        weights=weights - away,
        casts=_casts(shape, lora, args, held, compute),
        adapter=4 * lora,
        gradients=4 * lora,
        optimizer=None if state is None else int(state * lora),
        activations=on_device,
        context=CONTEXT,
        loading=0 if swapped else file,
        host_loading=file if swapped else 0,
        host_weights=away + (2 * shape.block_linears * held if swapped else 0),
        host_activations=on_host,
    )


def _activations(shape: DitShape, tokens: int, args: Namespace, compute: int) -> tuple[int, int]:
    """Bytes on the device and in main memory at the peak of a step."""
    d, f, b = shape.dim, shape.ffn_dim, compute
    constants = 28 * d if not _flag(args, "force_v2_1_time_embedding") else 0
    saved = (56 + 9 * b) * d + 2 * b * f + 8 * b * int(_flag(args, "network_dim") or 4)
    gradients = int(2.5 * b * d) + 2 * b * f
    if not _flag(args, "gradient_checkpointing"):
        return tokens * (constants + shape.num_layers * saved + max(gradients, 22 * d)), 0
    inputs = shape.num_layers * b * d
    if _flag(args, "gradient_checkpointing_cpu_offload"):
        return tokens * (constants + 2 * b * d + saved + gradients), tokens * inputs  # a block's input and output
    return tokens * (constants + inputs + saved + gradients), 0


def _casts(shape: DitShape, lora: int, args: Namespace, held: int, compute: int) -> int:
    """Casts alive at the peak: of one block's linears with gradient checkpointing, of all without, and of the LoRA."""
    blocks = 1 if _flag(args, "gradient_checkpointing") else shape.num_layers
    base = blocks * shape.block_linears * compute if held != compute else 0
    return base + (lora * compute if compute != 4 else 0)


def _flag(args: Namespace, name: str) -> Any:
    return getattr(args, name, None)


def _gib(size: int | None) -> str:
    return "unavailable" if size is None else f"{size / GIB:.1f} GiB"
