"""How the verbs of `musubi-ext registry` answer: tables for people, one JSON document for programs.

What a store holds was written by others: control characters are shown, never sent to the terminal.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from musubi_ext.errors import shown

_WIDEST = 4000  # characters


def json_flag() -> argparse.ArgumentParser:
    """`--json`, as a parent of a verb's parser."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--json", action="store_true", help="print one JSON document")
    return parent


def print_json(value: Any) -> None:
    """Strict JSON; numbers that are none become text."""
    print(json.dumps(_strict(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()
) -> None:
    """A table with the columns in `right` aligned to the right; long text is folded, never cut.

    A file or a pipe has no edge: there a table is as wide as it wants to be.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(shown(text(value))) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = max(
            console.width, console.measure(table, options=console.options.update(width=_WIDEST)).maximum
        )
    console.print(shown(title), style="bold", markup=False, highlight=False)
    console.print(table)


def say(line: str) -> None:
    """One line, as it is, however long."""
    print("\n".join(shown(part) for part in line.split("\n")))


def text(value: Any) -> str:
    """A value of a table's cell: – for none, four significant digits of a fraction."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def moment(milliseconds: int) -> str:
    """`2026-11-21 13:39:02Z`: a time that MLflow gives."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(" ", "seconds").replace("+00:00", "Z")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
