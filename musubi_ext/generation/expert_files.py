"""Experts from single files under Wan's own names, in place of the base folder's: Fun-Inpaint, or a merged checkpoint.

Wan2.2-Fun-A14B-InP has the architecture of Wan2.2-I2V-A14B (36 input channels), so text encoder, VAE and the experts'
configuration are the base's; Circle-Rotate serves its pairs on these experts.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from musubi_ext.adapters.tensors import read_tensors
from musubi_ext.errors import Problems, UserError
from musubi_ext.pocket.upstream import from_upstream
from musubi_ext.quiet import quiet_loading
from musubi_ext.schedule.experts import Expert

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

_PREFIX = "model.diffusion_model."  # of checkpoints that were saved with the pipeline around them


def load_experts(high: Path, low: Path, base: Path, dtype: torch.dtype) -> dict[str, WanTransformer3DModel]:
    """Component → expert, on the CPU: what `WanImageToVideoPipeline.from_pretrained(base, **experts)` takes.

    Raises UserError with all that is wrong with either file; nothing but safetensors is opened.
    """
    problems = Problems()
    files = {Expert.HIGH: high, Expert.LOW: low}
    for expert, path in files.items():
        _check(path, expert, problems)
    problems.raise_if_any()
    loaded = {}
    with quiet_loading():
        for expert, path in files.items():
            if (model := problems.collect(partial(_load, path, base, expert, dtype))) is not None:
                loaded[expert.component] = model
    problems.raise_if_any()
    return loaded


def _check(path: Path, expert: Expert, problems: Problems) -> None:
    where = f"experts.{expert.value} {path}"
    if path.suffix != ".safetensors" or not path.is_file():
        problems.add(where, "expected a .safetensors file", "give one expert's single file, under Wan's own names")


def _load(path: Path, base: Path, expert: Expert, dtype: torch.dtype) -> WanTransformer3DModel:
    """In the precision of `from_pretrained`: diffusers keeps some modules in float32, its from_single_file does not."""
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel

    where = f"experts.{expert.value} {path}"
    found = {name.removeprefix(_PREFIX): tensor for name, tensor in read_tensors(path)[0].items()}
    config = WanTransformer3DModel.load_config(str(base), subfolder=expert.component, local_files_only=True)
    state = from_upstream(found, config["text_dim"], where)
    with init_empty_weights():
        model: WanTransformer3DModel = WanTransformer3DModel.from_config(config)
    kept = set(model._keep_in_fp32_modules or ())
    cast = {name: tensor.to(torch.float32 if kept & set(name.split(".")) else dtype) for name, tensor in state.items()}
    try:
        model.load_state_dict(cast, assign=True)
    except RuntimeError as error:
        raise UserError(f"{where}: does not fit the experts of {base}: {str(error).splitlines()[1].strip()}") from error
    return model.eval()
