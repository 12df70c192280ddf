"""From two finished experts to one pair on disk, with everything the manifest records."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from musubi_ext import __version__
from musubi_ext.adapters.files import LoraFile, read_lora
from musubi_ext.adapters.manifest import SUFFIX, transformer_shape
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.adapters.tensors import read_header
from musubi_ext.hosts.checkpoints import (
    BEST,
    FINISHED,
    PAIR_ID,
    SETTINGS,
    VALIDATION,
    last_name,
    pair_id,
    read_metadata,
)
from musubi_ext.hosts.jobs import MUSUBI, Plan
from musubi_ext.schedule.experts import Expert
from musubi_ext.schedule.naming import output_name

# How a pair is meant to be used. Pocket: measured (docs/RESULTS.md). A14B: Wan2.2's own, wan/configs/wan_*_A14B.py.
INFERENCE: dict[str, dict[str, float]] = {
    "pocket-i2v": {"shift": 5.0, "steps": 12, "cfg": 1.0},
    "i2v-A14B": {"shift": 5.0, "steps": 40, "cfg": 3.5, "fps": 16},
    "t2v-A14B": {"shift": 12.0, "steps": 40, "cfg": 3.5, "fps": 16},
}
_FULL = {"strength_high": 1.0, "strength_low": 1.0}
_LIBRARIES = ("diffusers", "transformers", "peft", "accelerate")


def missing_half(plan: Plan) -> str:
    """Why there is no pair yet, or "" when both experts are there and belong together. Call after `plan` is done.

    With `--experts high` the low expert may be there from an earlier command: it is recognised by its own metadata.
    """
    wanted = pair_id(plan.jobs[0].settings)
    for expert in Expert:
        path = _file(plan, expert)
        if not path.is_file():
            return f"{path} is not there yet"
        metadata = read_metadata(path)
        if metadata.get(FINISHED) != "true":
            return f"{path} is not finished"
        if metadata.get(PAIR_ID) != wanted:
            return f"{path} was trained with other settings or data: it is no half of this pair"
    return ""


def existing(plan: Plan) -> AdapterPair | None:
    """The pair that is there already, its files verified; None where there is no manifest."""
    path = Path(plan.args.output_dir) / f"{plan.name}{SUFFIX}"
    return AdapterPair.load(path) if path.is_file() else None


def assemble(plan: Plan, run_id: str | None) -> AdapterPair:
    """Write the pair of two finished experts to the output directory; `run_id` is the MLflow run that made it."""
    loras = {expert: read_lora(_file(plan, expert)) for expert in Expert}
    settings = {expert: json.loads(lora.metadata[SETTINGS]) for expert, lora in loras.items()}
    any_of = settings[Expert.HIGH]
    return AdapterPair.save(
        plan.args.output_dir,
        plan.name,
        loras[Expert.HIGH].tensors,
        loras[Expert.LOW].tensors,
        task=plan.task.name,
        boundary=any_of["boundary"],
        train_base=plan.task.train_base,
        serve_base=plan.task.serve_base,
        transformer=_shape(Path(plan.jobs[0].args.dit)),
        steps={expert: int(lora.metadata["ss_steps"]) for expert, lora in loras.items()},
        timestep_ranges={expert: (own["low"], own["high"]) for expert, own in settings.items()},
        inference={**INFERENCE[plan.task.name], **_FULL, **_clip_shape(plan)},
        dataset_fingerprint=str(any_of["data"]),
        training={
            "arguments": {key: value for key, value in any_of.items() if key in vars(plan.args)},
            "base_sha256": {expert.value: own["base"] for expert, own in settings.items()},
            "validation": {expert.value: json.loads(lora.metadata[VALIDATION]) for expert, lora in loras.items()},
            "best": {expert.value: _best(lora) for expert, lora in loras.items()},
            "effective_batch": _effective_batch(plan, any_of),
            "pair_id": pair_id(any_of),
            "host": f"musubi-tuner {plan.host_version}" if plan.host == MUSUBI else "pocket",
            "versions": versions(),
            "mlflow_run": run_id,
        },
        metadata={expert: lora.metadata for expert, lora in loras.items()},
    )


def versions() -> dict[str, str]:
    """What made the pair."""
    own = {"musubi-ext": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return {**own, **{name: version(name) for name in _LIBRARIES}}


def _file(plan: Plan, expert: Expert) -> Path:
    return Path(plan.args.output_dir) / last_name(output_name(plan.name, expert))


def _best(lora: LoraFile) -> dict[str, float] | None:
    """The step with the lowest validation loss; None without validation."""
    if BEST not in lora.metadata:
        return None
    step, loss = json.loads(lora.metadata[BEST])
    return {"step": step, "loss": loss}


def _shape(dit: Path) -> dict[str, int]:
    """The shape of an expert: of a diffusers folder, or what the header of a file in Wan's own layout shows."""
    if dit.is_dir():
        return transformer_shape(json.loads((dit / "config.json").read_text(encoding="utf-8")))
    shapes = {key.removeprefix("model.diffusion_model."): entry["shape"] for key, entry in _tensors(dit).items()}
    return {
        "dim": shapes["patch_embedding.weight"][0],
        "in_channels": shapes["patch_embedding.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "layers": len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}),
    }


def _tensors(path: Path) -> dict[str, Any]:
    return {key: entry for key, entry in read_header(path).items() if key != "__metadata__"}


def _clip_shape(plan: Plan) -> dict[str, Any]:
    """Frames and size of the clips trained on; no size where buckets made several."""
    dataset = plan.data.datasets[0]
    shape: dict[str, Any] = {} if dataset.enable_bucket else {"size": list(dataset.resolution)}
    return {**shape, "frames": dataset.target_frames[-1]} if dataset.frame_extraction != "full" else shape


def _effective_batch(plan: Plan, settings: dict[str, Any]) -> int:
    """Clips of one update: of a batch, times the batches accumulated, times the processes."""
    batch = max(dataset.batch_size for dataset in plan.data.datasets)
    return batch * int(plan.args.gradient_accumulation_steps) * int(settings["processes"])
