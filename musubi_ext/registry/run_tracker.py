"""What one MLflow run is told: everything goes into its pair's spool, nothing waits for a store."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from musubi_ext.registry.events import Event, Kind
from musubi_ext.registry.runs import OFFLINE
from musubi_ext.registry.spool import Spool
from musubi_ext.registry.writer import Writer

Status = Literal["FINISHED", "FAILED", "KILLED"]
PARAM_LIMIT = 6000  # characters; mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
LONG_PARAMS = "long_params"
FLUSH_SECONDS = 10.0
_DIGEST_LIMIT = 36  # mlflow.utils.validation.MAX_DATASET_DIGEST_SIZE
_log = logging.getLogger(__name__)


class RunTracker:
    """One run. Every method returns at once; what it says is on the disk soon after and reaches MLflow later, in order.

    key: ours for the run; `spool` knows which id it has in the store.
    """

    def __init__(self, key: str, spool: Spool, writer: Writer) -> None:
        self.closed = False
        self._key, self._spool, self._writer = key, spool, writer

    @property
    def run_id(self) -> str:
        """The id in the store; while no store knows the run, one that begins with "offline-" and is good for later."""
        return self._spool.runs.get(self._key, OFFLINE + self._key)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings as text. A value over 6000 characters goes whole into an artifact, which the param names."""
        texts = {key: _text(value) for key, value in params.items()}
        for key in [key for key, text in texts.items() if len(text) > PARAM_LIMIT]:
            file = f"{LONG_PARAMS}/{key}.txt"
            self._put("text", {"text": texts[key], "file": file})
            texts[key] = f"{len(texts[key])} characters: see artifact {file}"
        self._put("params", texts)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at `step`; NaN and infinity are kept as they are."""
        self._put("metrics", {key: float(value) for key, value in metrics.items()}, step)

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Store a file or folder under `folder` of the run. It must stay in place until the run is closed."""
        self._put("artifact", {"path": str(Path(path).absolute()), "folder": folder})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set or replace tags."""
        self._put("tags", {key: _text(value) for key, value in tags.items()})

    def log_dataset(
        self, name: str, fingerprint: str, source: Path | str, profile: Mapping[str, Any] | None = None
    ) -> None:
        """Name the data set that was used: an input as `mlflow.data` reads it, and its fingerprint as a tag."""
        content = {
            "name": name,
            "digest": fingerprint[:_DIGEST_LIMIT],
            "source_type": "local",
            "source": json.dumps({"uri": str(source)}),
            "profile": json.dumps({"fingerprint": fingerprint, **(profile or {})}, default=str),
        }
        self._put("dataset", content)
        self.set_tags({"dataset.name": name, "dataset.fingerprint": fingerprint})

    def flush(self) -> None:
        """Wait until what was said is on the disk: before a state that relies on it. No store is waited for."""
        if not self._writer.flush(FLUSH_SECONDS):
            _log.warning("%s: the disk took more than %.0f s", self._spool.path, FLUSH_SECONDS)

    def close(self, status: Status = "FINISHED") -> None:
        """End the run with `status`; closing twice keeps the first."""
        if not self.closed:
            self.closed = True
            self._put("status", {"status": status})

    def _put(self, kind: Kind, content: dict[str, Any], step: int = 0) -> None:
        if content:
            self._writer.put(Event(self._key, kind, content, step))


def _text(value: Any) -> str:
    """Containers as JSON so that they can be read back; everything else as str() shows it."""
    return json.dumps(value, default=str) if isinstance(value, (dict, list, tuple)) else str(value)
