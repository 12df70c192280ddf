"""What the service's tests share: the tiny base with random weights, pairs for it, pictures, and one loaded engine."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `serving` lies beside musubi_ext and is not installed

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair
    from serving.config import ServiceConfig
    from serving.engine import Engine
    from serving.making.request import JobRequest

SMALL = {
    "size": (32, 32), "num_frames": 5, "num_inference_steps": 4, "fps": 8.0, "seed": 7, "guidance_scale": 1.0,
    "flow_shift": 5.0,
}  # fmt: skip


def picture(seed: int, side: int = 48) -> Image.Image:
    """Noise as a picture: every seed another one."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AdapterPair]:
    """A pair for the tiny base, by seed; the same seed gives the same files."""
    from musubi_ext.adapters.pair import AdapterPair
    from musubi_ext.pocket.random_lora import random_lora

    def make(seed: int = 1, name: str = "orbit", rank: int = 4, **fields: Any) -> AdapterPair:
        weights = (random_lora(number, rank, down=0.3, up=0.3) for number in (seed, seed + 1000))
        return AdapterPair.save(tmp_path_factory.mktemp("pair"), name, *weights, **fields)

    return make


@pytest.fixture
def make_job() -> Callable[..., JobRequest]:
    """A small request: 5 frames of 32×32 in 4 steps, unless fields say otherwise; `last` adds a last frame."""
    from serving.making.request import JobRequest

    def make(first: int = 1, last: int | None = None, **fields: Any) -> JobRequest:
        pictures = {"first_frame": picture(first), "last_frame": None if last is None else picture(last)}
        return JobRequest(**{"prompt": "a red car, camera circles right to left", **SMALL, **pictures, **fields})

    return make


@pytest.fixture(scope="session")
def tiny_values(tiny_pipeline: Path) -> dict[str, Any]:
    """Configuration values for the tiny base alone."""
    return {"base": str(tiny_pipeline), "pair": ""}


@pytest.fixture
def tiny_config(tiny_values: dict[str, Any]) -> Callable[..., ServiceConfig]:
    """A configuration for the tiny base; keyword arguments are further keys and tables."""
    from serving.config import ServiceConfig

    return lambda **values: ServiceConfig.of(tiny_values | values)


@pytest.fixture(scope="session")
def tiny_engine(tiny_values: dict[str, Any]) -> Engine:
    """One engine of the tiny base for all tests that leave it as it was: that is what an engine promises."""
    from serving.config import ServiceConfig
    from serving.engine import Engine

    return Engine(ServiceConfig.of(tiny_values))


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow SQLite file with its tables and nothing in it: making one takes a second."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    path = tmp_path_factory.mktemp("mlflow") / "template.db"
    engine = create_sqlalchemy_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


@pytest.fixture
def uri(migrated_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tracking URI of a fresh store in `tmp_path`, which is also the working directory."""
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "cache"))
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def free_port() -> int:
    """A local TCP port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
