"""SAM 2's video model (N. Ravi et al., "SAM 2: Segment anything in images and videos", 2024) through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from musubi_ext.evaluation.features.pretrained import expect_type, load_whole


def load_sam2(weights: Path, device: torch.device) -> Any:
    """The model that follows an instance through a video. Raises UnavailableError."""
    from transformers import Sam2VideoModel

    expect_type(weights, "sam2_video")
    return load_whole(Sam2VideoModel, weights).to(device)
