"""What a step depends on, by content: hashes of clips, captions, settings, flags, models, the gate and its suite.

A file is hashed once, and again when it was touched (registry/stamps.py); what is known is kept beside the stamps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from musubi_ext.errors import Problems
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.pipeline.settings import POCKET, Layout, Settings
from musubi_ext.promotion.base import base_digest
from musubi_ext.registry.downloads import cache_root
from musubi_ext.registry.stamps import settled, stamp
from musubi_ext.storage import write_json

_PLACES = ("cache_directory", "video_directory", "video_jsonl_file")  # of a data set: where it lies changes nothing


def data_set(settings: Settings) -> str | None:
    """Over every clip, caption and key of the TOML; None where it is not there yet. Raises UserError for a bad one."""
    if not settings.dataset.is_file():
        return None
    config = load_dataset_config(settings.dataset)
    sets = []
    digests = Digests(settings.layout)
    for one in config.datasets:
        clips = [[clip.stem, clip.mirrored_stem, digests.file(clip.path), clip.caption] for clip in one.clips()]
        keys = {key: value for key, value in asdict(one).items() if key not in _PLACES}
        sets.append([keys, sorted(clips)])
    digests.keep()
    return digest_of([sets, asdict(config.orbit), config.orbit_given])


def base(settings: Settings) -> str | None:
    """The pipeline folder's; None for the word that names the pocket where another task is trained."""
    if settings.base == POCKET and settings.task != POCKET:
        return None
    return base_digest(settings.base, cache_root().parent / "promotion" / "bases.json")


def flags(settings: Settings) -> dict[str, Any]:
    """The further flags of the training, with what stands in every file and folder that they name."""
    from musubi_ext.hosts.own_flags import gather_words

    words = settings.more_flags
    digests = Digests(settings.layout)
    named = {}
    for word in gather_words(words, (), Problems()):
        value = word.partition("=")[2] if word.startswith("--") else word
        if value and (path := Path(value)).exists():
            named[value] = digests.tree(path)
    digests.keep()
    return {"words": words, "files": named}


def pair(settings: Settings) -> dict[str, str] | None:
    """The three files of the pair as they lie there, by name; None where they do not."""
    manifest = settings.layout.pair / f"{settings.output_name}.pair.json"
    try:
        experts: Mapping[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["experts"]
        files = [manifest, *(manifest.with_name(Path(entry["file"]).name) for entry in experts.values())]
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not all(file.is_file() for file in files):
        return None
    digests = Digests(settings.layout)
    found = {file.name: digests.file(file) for file in files}
    digests.keep()
    return found


def gate(settings: Settings) -> dict[str, str]:
    """The gate's file, and its suite with prompts, pictures and weights. Raises UserError for a bad one."""
    from musubi_ext.promotion.judge import files_named
    from musubi_ext.registry.gate_file import Gate

    found = Gate.load(settings.gate)
    digests = Digests(settings.layout)
    named = sorted(digests.file(path) for path in files_named(found))
    digests.keep()
    return {"gate": found.sha256, "suite": digest_of([found.suite.digest(), named])}


def digest_of(value: object) -> str:
    """SHA-256 of plain JSON values; a path counts by its name."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


class Digests:
    """SHA-256 of files, read again only where one was touched."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._path = layout, layout.stamps / "files.json"
        self._known = _read(self._path)
        self._new: dict[str, Any] = {}

    def file(self, path: Path) -> str:
        """Of one file."""
        name = str(path.absolute())
        noted = self._new.get(name) or self._known.get(name)
        found = noted if noted is not None and settled(path, noted) else stamp(path)
        self._new[name] = found
        return str(found["sha256"])

    def tree(self, path: Path) -> str:
        """Of a file, or of all files in a folder with their names."""
        if path.is_file():
            return self.file(path)
        return digest_of([[name, self.file(path / name)] for name in _names(path)])

    def keep(self) -> None:
        """Write down what was learnt, once there is a pipeline."""
        if self._layout.marker.is_file() and any(self._known.get(name) != noted for name, noted in self._new.items()):
            write_json(self._path, {**self._known, **self._new})


def _names(folder: Path) -> Iterable[str]:
    def found() -> Iterator[str]:
        for path in folder.rglob("*"):
            if path.is_file():
                yield path.relative_to(folder).as_posix()

    return sorted(found())


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
