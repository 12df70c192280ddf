"""SQLite stores for the registry's tests: the schema takes a second to make, so it is made once and copied."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import torch

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.pocket.config import TINY


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow SQLite file with its tables and nothing in it."""
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
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def free_port() -> int:
    """A local TCP port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def pair_folder(tmp_path: Path) -> Path:
    """Where `pair` lies."""
    return tmp_path / "pair"


@pytest.fixture
def pair(pair_folder: Path) -> AdapterPair:
    """A complete pair of rank 2 for the tiny pocket model, random and strong enough to change a video."""
    return AdapterPair.save(pair_folder, "orbit", random_lora(1), random_lora(2))


def random_lora(seed: int, rank: int = 2) -> dict[str, torch.Tensor]:
    """All ten linears of every block in musubi-tuner's keys."""
    generator = torch.Generator().manual_seed(seed)
    width = TINY.heads * TINY.head_dim
    shapes = {f"{kind}_attn_{name}": (width, width) for kind in ("self", "cross") for name in "qkvo"}
    shapes |= {"ffn_0": (width, TINY.ffn), "ffn_2": (TINY.ffn, width)}
    state = {}
    for block in range(TINY.layers):
        for module, (inputs, outputs) in shapes.items():
            key = f"lora_unet_blocks_{block}_{module}"
            state[f"{key}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator)
            state[f"{key}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator)
            state[f"{key}.alpha"] = torch.tensor(float(rank))
    return state
