"""What a base pipeline is made of: one hash over all its files, read again only where one was touched."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from musubi_ext.pocket.config import pipeline_path
from musubi_ext.registry.stamps import settled, stamp
from musubi_ext.storage import write_json

POCKET = "pocket-i2v"


def base_folder(base: str) -> Path:
    """The folder that `base` names: the embedded model, or a local pipeline."""
    return pipeline_path() if base == POCKET else Path(base).absolute()


def base_digest(base: str, kept: Path) -> str:
    """SHA-256 over names and bytes of configurations and weights, whatever their folder is called.

    `kept` is a JSON file of stamps: a hundred gigabytes are not hashed for every promotion.
    """
    folder = base_folder(base)
    known = _read(kept)
    noted = known.get(str(folder), {})
    fresh: dict[str, Any] = {}
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        fresh[name] = noted[name] if settled(path, noted.get(name)) else stamp(path)
        digest.update(f"{name} {fresh[name]['sha256']}\n".encode())
    if fresh != noted:
        write_json(kept, {**known, str(folder): fresh})
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
