"""The pair of adapters as generation sees it: does it belong to this base, and which settings was it made for?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import Problems, UserError
from musubi_ext.generation.pipeline import POCKET
from musubi_ext.generation.presets import manifest_settings, preset

ADAPTER = "pair"  # the adapter's name inside both experts


def open_pair(pair: AdapterPair | Path | str | None) -> AdapterPair | None:
    """The pair itself, or the one in a directory. Raises UserError for a registry address: that is the caller's."""
    if isinstance(pair, str) and pair.startswith("models:/"):
        raise UserError(f"pair {pair}: load it first (musubi_ext.registry.model.load_pair) and give the AdapterPair")
    return AdapterPair.load(pair) if isinstance(pair, (str, Path)) else pair


def check_fits(pair: AdapterPair, base: str, folder: Path) -> None:
    """Raises UserError if the pair was trained for another base: another task, or a hand-over at another boundary.

    Shapes are compared when the weights meet; this is what can be said before anything is loaded.
    """
    problems = Problems()
    task, boundary = pair.manifest.get("task"), pair.manifest.get("boundary")
    where = f"pair {pair.manifest.get('name')}"
    if base == POCKET and task != POCKET:
        problems.add(where, f"trained for {task}, but the base is {POCKET}", "give --base the folder of its own base")
    expected = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["boundary_ratio"]
    if boundary != expected:
        problems.add(where, f"boundary {boundary}, but base {base} hands over at {expected}", "use the pair's own base")
    problems.raise_if_any()


def defaults(base: Path | str, pair: AdapterPair | None) -> dict[str, Any]:
    """Settings of the task (the pair's, else the base's), overridden by the pair's own inference settings."""
    task = pair.manifest.get("task") if pair is not None else None
    settings = preset(str(task or (POCKET if str(base) == POCKET else "i2v-A14B")))
    return settings | (manifest_settings(pair.manifest.get("inference") or {}) if pair is not None else {})


def pair_record(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Name and SHA-256 per expert of a pair manifest."""
    experts = manifest["experts"]
    return {"name": manifest["name"], **{f"sha256_{expert}": experts[expert]["sha256"] for expert in ("high", "low")}}
