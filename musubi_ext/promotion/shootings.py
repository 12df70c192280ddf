"""What is to be filmed for a suite, under which hashes it is kept, and what of it was made before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from musubi_ext import __version__
from musubi_ext.evaluation.metrics.registry import NUMPY, OPENCV
from musubi_ext.evaluation.result import Result, read_results
from musubi_ext.registry.suite_config import SHAPES, Scene, Suite

_LAYOUT = 1  # raised when what is kept changes its meaning


@dataclass(frozen=True)
class Kept:
    """Where a suite's things lie, by content."""

    root: Path

    def scenes(self, suite: Suite) -> Path:
        """Folder of rendered scenes with their truth."""
        made_by = [_LAYOUT, __version__, NUMPY, suite.shapes, suite.size, suite.frames]
        return self.root / "scenes" / digest_of(made_by)[:16]

    def file(self, kind: str, key: str, suffix: str) -> Path:
        """videos/KEY.mp4, references/KEY.mp4, results/KEY.json."""
        return self.root / kind / f"{key}{suffix}"


@dataclass(frozen=True)
class Shooting:
    """One video of one model: what it is made of, and where video and results are kept.

    `settings` are all fields of a GenerationRequest but prompt, pictures and seed. `pair`: folder of its three files,
    None for the base alone. `asked`: metrics that somebody waits for.
    """

    scene: Scene
    suite: Suite
    pair: Path | None
    base: str
    device: str
    settings: Mapping[str, Any] = field(repr=False)
    key: str
    results_key: str
    reference_key: str
    root: Path
    asked: tuple[str, ...] = ()

    @property
    def kept(self) -> Kept:
        return Kept(self.root)

    @property
    def video(self) -> Path:
        """The mp4."""
        return self.kept.file("videos", self.key, ".mp4")

    @property
    def results(self) -> Path:
        """Its results, a document of one clip with its scene."""
        return self.kept.file("results", self.results_key, ".json")

    @property
    def truth(self) -> Path | None:
        """The rendered scene's truth; its caption lies beside it."""
        return None if self.scene.number is None else self.kept.scenes(self.suite) / f"{_rendered_name(self)}.npz"


def digest_of(value: object) -> str:
    """SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def shootings(
    suite: Suite,
    root: Path,
    *,
    pair: Path | None,
    pair_digest: str | None,
    base: str,
    base_digest: str,
    device: str,
    settings: Mapping[str, Any],
    asked: Collection[str] = (),
) -> list[Shooting]:
    """Every video of one model with its keys; nothing is made, pictures are read for their hashes."""
    made_by: list[Any] = [_LAYOUT, __version__, NUMPY, version("diffusers"), version("torch"), version("peft"), device]
    measured_by: list[Any] = [_LAYOUT, __version__, NUMPY, OPENCV, suite.metrics, suite.masks, suite.profile]
    measured_by.append(_weights(suite.models))
    found = []
    for scene in suite.shots():
        key = digest_of([made_by, pair_digest, base_digest, dict(settings), dict(scene.record)])
        through = [made_by, base_digest, suite.size, suite.frames, suite.shapes, scene.record.get("rendered")]
        keys = key, digest_of([measured_by, key]), digest_of(through)
        found.append(Shooting(scene, suite, pair, base, device, settings, *keys, root, tuple(sorted(asked))))
    return found


def read_kept(shooting: Shooting) -> tuple[dict[str, Result], Mapping[str, Any]] | None:
    """Results and scene of a video that was measured before; None where they, or it, are not there.

    A learned metric that is asked for and was unavailable is tried again: its weights may be there by now.
    """
    if not shooting.video.is_file() or not shooting.results.is_file():
        return None
    document = json.loads(shooting.results.read_text(encoding="utf-8"))
    ((name, results),) = read_results(shooting.results).items()
    tried = (results[metric] for metric in shooting.asked if metric in results)
    if any(result.value is None and result.licence for result in tried):
        return None
    return results, document["scenes"][name]


def caption_of(job: Shooting) -> str:
    """The prompt of its scene."""
    if job.truth is not None:
        return job.truth.with_suffix(".txt").read_text(encoding="utf-8").strip()
    assert job.scene.prompt is not None
    return job.scene.prompt.prompt


def _rendered_name(job: Shooting) -> str:
    record = job.scene.record
    return f"orbit_{SHAPES[str(record['shapes'])]}_{record['rendered']:06d}_{record['way']}"


def _weights(folder: Path | None) -> list[Any]:
    """What a folder of learned weights looks like: their hashes are checked where they are loaded."""
    if folder is None:
        return []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
