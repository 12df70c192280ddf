"""The real musubi-tuner, the tiny experts in its layout, and arguments of its own parser."""

from __future__ import annotations

import os
import random
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import torch

from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.hosts.musubi.pocket_task import TASK, register
from musubi_ext.hosts.musubi.requirements import missing
from musubi_ext.pocket.upstream import export_experts
from musubi_ext.schedule.experts import Expert

HOME = "MUSUBI_TUNER_HOME"
Value = bool | int | float | str | Path | list[str] | None
REMARKS = (
    # WanModel asks for float32 autocast around its time embedding, which torch does not have on the CPU.
    "In CPU autocast, but the target dtype is not supported",
)


@pytest.fixture(scope="session")
def host() -> ModuleType:
    """`musubi_tuner.wan_train_network` of the checkout in $MUSUBI_TUNER_HOME."""
    if not os.environ.get(HOME):
        pytest.skip(f"{HOME} is not set: no musubi-tuner checkout to test with")
    if lacking := missing():
        names = ", ".join(requirement.module for requirement in lacking)
        pytest.skip(f"musubi-tuner needs modules that are not installed: {names} (`make test-host` installs them)")
    with patch.dict(os.environ):  # its configurations set TOKENIZERS_PARALLELISM
        return import_host()


@pytest.fixture(scope="session")
def pocket_files(host: ModuleType, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Expert, Path]:
    """The experts of the tiny pipeline as musubi-tuner's files. Read them, never write to them."""
    return export_experts(tiny_pipeline, tmp_path_factory.mktemp("experts"))


@pytest.fixture
def host_args(
    host: ModuleType, pocket_files: dict[Expert, Path], tiny_pipeline: Path, process_left_alone: None
) -> Callable[..., Namespace]:
    """Build upstream's arguments: `host_args(learning_rate=1e-2, dit=path)`; False and None leave a flag out."""

    def build(**overrides: Value) -> Namespace:
        flags: dict[str, Value] = {
            "task": TASK,
            "dit": pocket_files[Expert.LOW],
            "vae": tiny_pipeline,
            "t5": tiny_pipeline,
            "sdpa": True,
            "mixed_precision": "no",
            "max_data_loader_n_workers": 0,
            "network_module": "networks.lora_wan",
            "network_dim": 4,
            "network_alpha": 2,
            "optimizer_type": "adamw",
            "learning_rate": 1e-3,
            "timestep_sampling": "shift",
            "discrete_flow_shift": 5.0,
            "max_train_steps": 2,
            "seed": 42,
            **overrides,
        }
        if flags["task"] == TASK:
            register(Path(str(flags["dit"])))
        parser = host.wan_setup_parser(host.setup_parser_common())
        args: Namespace = host.read_config_from_file(parser.parse_args(_words(flags)), parser)
        args.dit_dtype, args.vae_dtype = None, args.vae_dtype or "bfloat16"  # as its `main` does
        return args

    return build


def _words(flags: dict[str, Value]) -> list[str]:
    words: list[str] = []
    for name, value in flags.items():
        if value is None or value is False:
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name}", *(str(item) for item in values)]
    return words


@pytest.fixture(autouse=True)
def process_left_alone() -> Iterator[None]:
    """Take back what upstream changes in the process: search path, environment, tasks, generators, accelerate."""
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    with ExitStack() as restored:
        restored.enter_context(patch.object(sys, "path", list(sys.path)))
        restored.enter_context(patch.dict(os.environ))
        if configs := sys.modules.get("musubi_tuner.wan.configs"):
            restored.enter_context(patch.dict(configs.WAN_CONFIGS))
        restored.enter_context(warnings.catch_warnings())
        for remark in REMARKS:
            warnings.filterwarnings("ignore", remark, UserWarning)
        yield
    random.setstate(generators[0])
    np.random.set_state(generators[1])
    torch.set_rng_state(generators[2])
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
