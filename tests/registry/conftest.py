"""SQLite stores for the registry's tests: the schema takes a second to make, so it is made once and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow SQLite file with its tables and nothing in it."""
    from mlflow.store.db.utils import create_sqlalchemy_engine, _initialize_tables

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
