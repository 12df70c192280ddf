"""Train, prove, promote and serve motion adapters for Wan2.2 image-to-video.

Importing this package is cheap: torch, diffusers and mlflow are loaded when a name below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair as AdapterPair
    from musubi_ext.generation.circle_rotate import CircleRotate as CircleRotate

__version__ = "0.1.0"
_LAZY = {
    "AdapterPair": "musubi_ext.adapters.pair",
    "CircleRotate": "musubi_ext.generation.circle_rotate",
}
__all__ = ["AdapterPair", "CircleRotate", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'musubi_ext' has no attribute {name!r}")
