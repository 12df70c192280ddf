"""What a version was promoted with, metric by metric: the numbers that its videos here are held against.

`registry promote` keeps the candidate's results on the gate's suite beside the verdict, whose SHA-256 the version's
tags name, and which names theirs. Without a verdict there may be tags of the registration, as the demo writes them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from musubi_ext.errors import UserError

_TAG = "evaluation."  # + metric, or "pair." and the metric: a number that a version was registered with
_PAIR = "pair."


@dataclass(frozen=True)
class Promise:
    """`mean` over the suite's videos. `resolution` ("64x64"): of these videos; "" where nobody noted it.

    Pixels are those of the video, so a metric of another resolution is another number (docs/EVALUATION.md). Who found
    the subject is left open: by colour and by flow, drift on the pocket's scenes differs by 0.02% of the width.
    """

    mean: float
    resolution: str = ""

    def speaks_of(self, result: Mapping[str, Any]) -> bool:
        """Whether this result of the same metric can be held against it."""
        return result.get("value") is not None and self.resolution in ("", result.get("resolution", ""))


def promises(client: Any, version: Any) -> dict[str, Promise]:
    """Metric → promise of an MLflow `ModelVersion`; none where it was registered without any number.

    Raises UserError for evidence that is not what was judged, or cannot be read; MLflow's own errors for a dead store.
    """
    from musubi_ext.registry.evidence import VERDICT_TAG

    return _of_verdict(client, version) if version.tags.get(VERDICT_TAG) else _of_tags(version.tags)


def _of_verdict(client: Any, version: Any) -> dict[str, Promise]:
    import json

    import mlflow.artifacts

    from musubi_ext.evaluation.result import read_results
    from musubi_ext.registry.evidence import PLACE_TAG, fetch_verdict
    from musubi_ext.registry.store import STORE_ERRORS, first_line
    from musubi_ext.storage import sha256

    with tempfile.TemporaryDirectory() as folder:
        path, _ = fetch_verdict(client, version, Path(folder))  # the tag's address was checked by it
        judged = json.loads(path.read_text(encoding="utf-8"))["inputs"]["pair"]
        place = str(version.tags[PLACE_TAG]).rpartition("/")[0]
        try:
            results = mlflow.artifacts.download_artifacts(
                f"{place}/{Path(judged['name']).name}", dst_path=folder, tracking_uri=client.tracking_uri
            )
        except STORE_ERRORS as error:
            raise UserError(f"{place}: the results that were judged cannot be read: {first_line(error)}") from error
        if sha256(results) != judged["sha256"]:
            raise UserError(f"{place}: the results are not those that were judged (promote the version again)")
        return _means(read_results(Path(results)))


def _means(clips: Mapping[str, Mapping[str, Any]]) -> dict[str, Promise]:
    """Metric → mean over the clips that have it; a metric of several resolutions promises nothing."""
    values: dict[str, list[float]] = {}
    sizes: dict[str, set[str]] = {}
    for results in clips.values():
        for metric, result in results.items():
            if result.value is not None:
                values.setdefault(metric, []).append(result.value)
                sizes.setdefault(metric, set()).add(result.resolution)
    return {metric: Promise(fmean(of), *sizes[metric]) for metric, of in values.items() if len(sizes[metric]) == 1}


def _of_tags(tags: Mapping[str, str]) -> dict[str, Promise]:
    found = {}
    for key, value in tags.items():
        with suppress(ValueError):  # a tag of someone else's
            if key.startswith(_TAG) and math.isfinite(number := float(value)):
                found[key.removeprefix(_TAG).removeprefix(_PAIR)] = Promise(number)
    return found
