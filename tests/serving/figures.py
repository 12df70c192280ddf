"""What a long test has found, in a sentence: shown, and put into the document that MUSUBI_EXT_FIGURES names.

It stands there between markers, as the tables of the benchmarks do.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

TABLES = Path(__file__).resolve().parents[2] / "benchmarks" / "tables.py"
_NAMED = os.environ.get("MUSUBI_EXT_FIGURES")
DOCUMENT = Path(_NAMED).resolve() if _NAMED else None  # now: tests change the working directory


def tell(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Show `text`; `name` is that of the markers."""
    with capsys.disabled():
        print(f"\n{text}")
    if DOCUMENT is not None:
        tables = runpy.run_path(str(TABLES))
        tables["insert"](DOCUMENT, name, f"{tables['machine']()}.\n\n{text}")
