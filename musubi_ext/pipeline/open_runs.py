"""Which runs of a store a pipeline has open, on the disk: whoever comes after a kill closes them."""

from __future__ import annotations

import json
from pathlib import Path

from musubi_ext.storage import write_json


class OpenRuns:
    """The list in `path`, of the store that is shown as `uri`. Another store's is not ours to read."""

    def __init__(self, path: Path, uri: str) -> None:
        self._path, self._uri = path, uri

    def left(self) -> list[str]:
        """Ids in the order in which the runs were opened."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return [str(run_id) for run_id in found["open"]] if found["uri"] == self._uri else []
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []

    def add(self, run_id: str) -> None:
        """It is open."""
        self._write([*(known for known in self.left() if known != run_id), run_id])

    def drop(self, run_id: str) -> None:
        """It is closed."""
        self._write([known for known in self.left() if known != run_id])

    def clear(self) -> None:
        """None is open."""
        self._path.unlink(missing_ok=True)

    def _write(self, run_ids: list[str]) -> None:
        write_json(self._path, {"uri": self._uri, "open": run_ids})
