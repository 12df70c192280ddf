"""Loading a base: from this disk only, on the device asked for, complete or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from musubi_ext.errors import UserError
from musubi_ext.generation.pipeline import choose_device, expert_steps, flow_scheduler, load_pipeline, resolve_base


def test_a_folder_loads_in_float32_on_the_cpu(base: Path) -> None:
    pipeline = load_pipeline(base)
    parts = (pipeline.transformer, pipeline.transformer_2, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    assert pipeline.device.type == "cpu"


def test_the_vae_stays_in_float32(base: Path) -> None:
    pipeline = load_pipeline(base, torch.bfloat16)
    assert (pipeline.transformer.dtype, pipeline.transformer_2.dtype) == (torch.bfloat16, torch.bfloat16)
    assert pipeline.vae.dtype == torch.float32


def test_what_is_not_a_base_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        resolve_base(tmp_path / "missing")
    with pytest.raises(UserError, match=r"no model_index\.json"):
        resolve_base(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    shutil.rmtree(broken / "transformer_2")
    shutil.rmtree(broken / "vae")
    index = json.loads((broken / "model_index.json").read_text())
    (broken / "model_index.json").write_text(json.dumps(index | {"boundary_ratio": None, "_class_name": "WanPipeline"}))
    with pytest.raises(UserError) as caught:
        resolve_base(broken)
    assert len(caught.value.problems) == 4
    (broken / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        resolve_base(broken)


def test_a_device_is_never_replaced_by_another() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="device tpu"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            choose_device("cuda")


@pytest.mark.parametrize(("steps", "high"), [(4, 2), (8, 4), (20, 10), (1, 1)])
def test_the_hand_over_follows_from_the_schedule(base: Path, steps: int, high: int) -> None:
    """sigma = 8t / (1 + 7t) crosses 0.9 at these steps for shift 8, boundary 0.9."""
    assert expert_steps(base, steps, 8.0) == (high, steps - high)


def test_the_shift_is_the_requests(base: Path) -> None:
    config = load_pipeline(base).scheduler.config
    scheduler = flow_scheduler(config, 3.0)
    assert (scheduler.config.flow_shift, config.flow_shift) == (3.0, 5.0)
    assert scheduler.config.use_flow_sigmas
