"""Our numbers are the Circle-Rotate authors' numbers on their own clips."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from musubi_ext.evaluation.flow import sample_indices, speed
from musubi_ext.evaluation.metrics.psnr import psnr
from musubi_ext.evaluation.metrics.ssim import ssim
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.video import Frames

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MUSUBI_EXT_SAMPLE_DATA", ROOT.parent / "shared" / "data" / "circle_rotate"))
REFERENCE = DATA / "reference_metrics.json"
MISSING = f"the Circle-Rotate sample clips are not at {DATA}; set MUSUBI_EXT_SAMPLE_DATA"

pytestmark = pytest.mark.skipif(not REFERENCE.is_file(), reason=MISSING)

FLOW, EXACT = 1e-4, 1e-9  # relative, as reference_metrics.json recommends
TOLERANCE = {
    "motion_magnitude": ("motion_magnitude", FLOW),
    "global_flow": ("global_flow_16", FLOW),
    "dynamic_degree": ("dynamic_degree", EXACT),
    "psnr_first_last": ("psnr_first_last", EXACT),
    "ssim_first_last": ("ssim_first_last", EXACT),
}
REFERENCES = json.loads(REFERENCE.read_text()) if REFERENCE.is_file() else {"clips": {}}


def frames_of(path: Path) -> Frames:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("name", sorted(REFERENCES["clips"]))
def test_clip_matches_the_authors_code(name: str) -> None:
    expected = REFERENCES["clips"][name]
    frames = frames_of(DATA / name)
    assert len(frames) == expected["frames"]
    assert sample_indices(len(frames)).tolist() == expected["sample_idx_16"]
    results = evaluate(frames, metrics=list(TOLERANCE))
    for metric, (key, tolerance) in TOLERANCE.items():
        assert results[metric].value == pytest.approx(expected[key], rel=tolerance), metric


def test_example_pair_matches_the_authors_code() -> None:
    expected = REFERENCES["examples"]["pair"]
    first, last = (np.asarray(Image.open(DATA / name).convert("RGB")) for name in ("first.png", "last.png"))
    gray = [np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8) for image in (first, last)]
    assert psnr(first, last) == pytest.approx(expected["psnr"], rel=EXACT)
    assert ssim(*gray) == pytest.approx(expected["ssim"], rel=EXACT)
    assert float(speed(*gray).mean()) == pytest.approx(expected["mean_flow"], rel=FLOW)
