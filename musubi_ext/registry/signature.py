"""What a registered pair takes and gives as an MLflow model: one row per video."""

from __future__ import annotations

import base64
import io
from typing import Any

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from PIL import Image

_INPUTS = (  # column, type, required
    ("prompt", "string", True),
    ("first", "string", True),  # PNG, JPEG or WebP file, base64
    ("last", "string", False),  # the same; the frame to end on
    ("seed", "long", False),
    ("steps", "long", False),
    ("frames", "long", False),  # 4n + 1
    ("width", "long", False),  # pixels, multiples of 16; with height
    ("height", "long", False),
    ("strength_high", "double", False),  # the adapter's weight in the high-noise expert, 1 = as trained
    ("strength_low", "double", False),
)


def signature() -> ModelSignature:
    """Inputs as the table above; one output column, `video`: an H.264 mp4 file, base64."""
    inputs = Schema([ColSpec(kind, name, required=required) for name, kind, required in _INPUTS])
    return ModelSignature(inputs, Schema([ColSpec("string", "video")]))


def input_example() -> dict[str, Any]:
    """One row that the signature accepts: a grey first frame of 64×64 pixels. As lists, column by column."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode("ascii")
    return {"prompt": ["the camera circles right to left"], "first": [picture], "seed": [0]}
