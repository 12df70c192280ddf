"""What a request leaves open: one line of settings per task, overridden by the pair's own manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from musubi_ext.errors import UserError

#           size (w, h)   frames   fps   steps   shift   guidance (high, low)
_TABLE = {
    "pocket-i2v": ((64, 64), 17, 8.0, 12, 5.0, 1.0, 1.0),  # the embedded model was trained without guidance
    "i2v-A14B": ((832, 480), 81, 16.0, 40, 5.0, 3.5, 3.5),  # Wan2.2's own wan_i2v_A14B configuration
}
_NAMES = ("size", "frames", "fps", "steps", "shift", "guidance", "guidance_2")
PRESETS: dict[str, dict[str, Any]] = {task: dict(zip(_NAMES, row, strict=True)) for task, row in _TABLE.items()}

# DESIGN decision 4 names the manifest's inference settings; "cfg" and "strength" speak for both experts.
_FROM_MANIFEST = {
    "shift": ("shift",),
    "steps": ("steps",),
    "cfg": ("guidance", "guidance_2"),
    "strength": ("strength_high", "strength_low"),
    "strength_high": ("strength_high",),
    "strength_low": ("strength_low",),
    "frames": ("frames",),
    "fps": ("fps",),
    "size": ("size",),
}


def preset(task: str) -> dict[str, Any]:
    """The task's settings, by GenerationRequest field. Raises UserError for a task that starts from no image."""
    if task not in PRESETS:
        raise UserError(f"task {task}: no image-to-video settings (one of {', '.join(PRESETS)})")
    return dict(PRESETS[task])


def manifest_settings(inference: Mapping[str, Any]) -> dict[str, Any]:
    """A pair manifest's `inference` table as GenerationRequest fields; values of None are left to the preset."""
    settings: dict[str, Any] = {}
    for key, fields in _FROM_MANIFEST.items():
        if inference.get(key) is not None:
            settings |= dict.fromkeys(fields, inference[key])
    if "size" in settings:
        settings["size"] = tuple(settings["size"])
    return settings
