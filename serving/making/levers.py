"""What makes a large base fit and run faster: one table of the configuration, applied once to a loaded pipeline.

`pocket`: a test runs it on the pocket model and compares the frames with those without it. `unmeasured`: written
against the library's documentation, never run here; measure before you rely on it. No lever's gain in time or memory
on the 14B model has been measured: that needs a GPU.

| lever             | values                                        | state      | frames against none       |
|-------------------|-----------------------------------------------|------------|---------------------------|
| layerwise_casting | bfloat16, float8_e4m3fn, float8_e5m2          | pocket     | close: rounded weights    |
| quantization      | bitsandbytes-8bit/-4bit, torchao-int8/-float8 | unmeasured | close: rounded weights    |
| group_offload     | block, leaf                                   | pocket ¹   | the same                  |
| vae_tile          | pixels of a tile's side                       | pocket     | close: tiles are blended  |
| step_cache        | first_block, taylorseer, magcache             | pocket     | close: steps are left out |
| attention         | a name of diffusers' attention backends       | pocket ²   | close: another order      |
| compile           | regional                                      | pocket ³   | close: fused operations   |
| distillation      | folder of a pair that needs few steps         | pocket     | others, in fewer steps    |

¹ from a CPU to the same CPU, without streams.  ² `native` and `_native_math`; those of a GPU are unmeasured.
³ with the backend "aot_eager"; inductor, the default, is unmeasured.

Order matters: pairs are always put in after the weights are cast, so that a version gives the same frames whether it
was there at the start or swapped in; a LoRA then stays in the precision of its computation (1 to 2% of the expert).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from musubi_ext.errors import UserError

if TYPE_CHECKING:
    from diffusers import WanImageToVideoPipeline

EXPERTS = ("transformer", "transformer_2")  # high-noise, low-noise
DISTILLATION = "distillation"  # the adapter's name inside both experts

_PACKAGES = {"bitsandbytes": "bitsandbytes", "torchao": "torchao"}  # prefix of a quantization: the package it needs

Threshold = Annotated[float, Field(gt=0, lt=1)]
Interval = Annotated[int, Field(ge=1, le=100)]


class Levers(BaseModel):
    """The table `[levers]`. Pairs of numbers are (high-noise expert, low-noise expert)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layerwise_casting: Literal["none", "bfloat16", "float8_e4m3fn", "float8_e5m2"] = "none"  # how weights are kept
    quantization: Literal["none", "bitsandbytes-8bit", "bitsandbytes-4bit", "torchao-int8", "torchao-float8"] = "none"
    group_offload: Literal["none", "block", "leaf"] = "none"
    offload_stream: bool = True  # copy the next group while this one computes
    vae_tile: Annotated[int, Field(ge=0, le=4096, multiple_of=16)] = 0  # 0: whole pictures
    step_cache: Literal["none", "first_block", "taylorseer", "magcache"] = "none"
    first_block_threshold: tuple[Threshold, Threshold] = (0.05, 0.05)
    taylorseer_interval: tuple[Interval, Interval] = (3, 3)  # steps from one whole computation to the next
    taylorseer_warmup: tuple[Interval, Interval] = (3, 3)  # whole steps before the first prediction
    magcache_threshold: tuple[Threshold, Threshold] = (0.06, 0.06)
    magcache_ratios_high: tuple[float, ...] = ()  # calibrated for this very base: diffusers' MagCacheConfig(calibrate)
    magcache_ratios_low: tuple[float, ...] = ()
    attention: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] = "native"
    compile: Literal["none", "regional"] = "none"
    compile_backend: Literal["inductor", "aot_eager"] = "inductor"
    distillation: str = ""  # "": none
    distillation_steps: Annotated[int, Field(ge=1, le=16)] = 4

    @model_validator(mode="after")
    def _together(self) -> Levers:
        problems = [*self._missing(), *self._contradictions()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def needs_cuda(self) -> str:
        """The levers that work on a GPU only, in words; "" without any."""
        chosen = {"quantization": self.quantization, "group_offload": self.group_offload}
        return " and ".join(f'{name} = "{value}"' for name, value in chosen.items() if value != "none")

    @property
    def defaults(self) -> dict[str, Any]:
        """What distillation changes of a request's settings: few steps, no guidance. Fields of GenerationRequest."""
        if not self.distillation:
            return {}
        return {"steps": self.distillation_steps, "guidance": 1.0, "guidance_2": 1.0}

    def _missing(self) -> list[str]:
        problems = []
        package = _PACKAGES.get(self.quantization.partition("-")[0])
        if package and find_spec(package) is None:
            problems.append(f"quantization {self.quantization} needs the package {package} (pip install {package})")
        if self.distillation and not Path(self.distillation).is_dir():
            problems.append(f"distillation {self.distillation} is no folder (one of a pair, as `adapter` converts it)")
        if self.step_cache == "magcache" and not (self.magcache_ratios_high and self.magcache_ratios_low):
            problems.append("step_cache magcache needs magcache_ratios_high and magcache_ratios_low, both calibrated")
        return problems

    def _contradictions(self) -> list[str]:
        problems = []
        if self.quantization != "none" and self.layerwise_casting != "none":
            problems.append("quantization and layerwise_casting both change how weights are kept (choose one)")
        if self.quantization != "none" and self.group_offload != "none":
            problems.append("quantization and group_offload: quantized weights cannot be moved (choose one)")
        return problems


def load(
    base: str, dtype: Any, device: str, levers: Levers, experts: tuple[Path, Path] | None = None
) -> WanImageToVideoPipeline:
    """The pipeline with these levers in place, without a pair; `experts`: files of its own (high, low).

    Raises UserError for what cannot be used.
    """
    from musubi_ext.generation.pipeline import choose_device, load_pipeline

    if levers.quantization == "none":
        # group offload moves the weights itself: they must not all be on the GPU first
        pipeline = load_pipeline(base, dtype, "cpu" if levers.group_offload != "none" else device, experts)
    else:
        pipeline = _load_quantized(base, dtype, device, levers.quantization)
    apply(pipeline, levers, choose_device(device))
    return pipeline


def apply(pipeline: Any, levers: Levers, device: Any) -> None:
    """Put the levers into a loaded pipeline; `device` is where it computes."""
    import torch

    experts = [getattr(pipeline, name) for name in EXPERTS]
    if levers.distillation:
        _distill(pipeline, levers.distillation)
    if levers.vae_tile:
        side, stride = levers.vae_tile, levers.vae_tile * 3 // 4
        pipeline.vae.enable_tiling(side, side, stride, stride)
    for expert in experts:
        if levers.attention != "native":
            _attend(expert, levers.attention)
        if levers.layerwise_casting != "none":
            storage = getattr(torch, levers.layerwise_casting)
            # diffusers would keep a LoRA of the first hour in 8 bits, and one of the second in 16
            skipped = (*(expert._skip_layerwise_casting_patterns or ()), "lora_")
            expert.enable_layerwise_casting(
                storage_dtype=storage, compute_dtype=expert.dtype, skip_modules_pattern=skipped
            )
    if levers.group_offload != "none":
        pipeline.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type=f"{levers.group_offload}_level",
            num_blocks_per_group=1 if levers.group_offload == "block" else None,
            use_stream=levers.offload_stream and device.type == "cuda",
        )
    if levers.compile == "regional":
        for expert in experts:
            expert.compile_repeated_blocks(backend=levers.compile_backend)


def _distill(pipeline: Any, folder: str) -> None:
    """The adapter that needs few steps, beside every pair; the experts hand over at the base's boundary as always."""
    from musubi_ext.adapters.pair import AdapterPair

    AdapterPair.load(folder).apply(pipeline, adapter_name=DISTILLATION)


def _attend(expert: Any, backend: str) -> None:
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that the interface may change
    try:
        expert.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"levers.attention: {backend} cannot be used here: {str(error).splitlines()[0]}") from error
    finally:
        logging.set_verbosity(level)


def _load_quantized(base: str, dtype: Any, device: str, kind: str) -> Any:
    """Both experts quantized while they are read; text encoder and VAE as they are."""
    import torch
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig, WanImageToVideoPipeline

    from musubi_ext.generation.pipeline import choose_device, resolve_base

    target, compute = choose_device(device), dtype or torch.bfloat16
    if kind == "bitsandbytes-8bit":
        chosen = BitsAndBytesConfig(load_in_8bit=True)
    elif kind == "bitsandbytes-4bit":
        chosen = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    else:
        from torchao.quantization import (  # type: ignore[import-not-found]
            Float8WeightOnlyConfig,
            Int8WeightOnlyConfig,
        )

        chosen = TorchAoConfig(Int8WeightOnlyConfig() if kind == "torchao-int8" else Float8WeightOnlyConfig())
    pipeline = WanImageToVideoPipeline.from_pretrained(
        resolve_base(base),
        dtype={"default": compute, "vae": torch.float32},
        quantization_config=PipelineQuantizationConfig(quant_mapping=dict.fromkeys(EXPERTS, chosen)),
        local_files_only=True,
        use_safetensors=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(target)
