"""Where the subject is, by provider: rendered truth, colour followed, flow and appearance, or SAM 2."""

from musubi_ext.evaluation.masks.color import track
from musubi_ext.evaluation.masks.regions import Box, Point, centroids, coverage, found
from musubi_ext.evaluation.masks.sources import FoundMasks, MaskSource, find_masks, subject_masks

__all__ = [
    "Box",
    "FoundMasks",
    "MaskSource",
    "Point",
    "centroids",
    "coverage",
    "find_masks",
    "found",
    "subject_masks",
    "track",
]
