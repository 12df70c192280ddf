"""Every metric of the package, registered by importing its file; `METRICS` lists them by name."""

from musubi_ext.evaluation.metrics import (
    direction,
    dynamic_degree,
    flow_magnitude,
    mask_iou,
    motion_magnitude,
    motion_ratio,
    psnr,
    ssim,
    subject_drift,
    swept_angle,
)
from musubi_ext.evaluation.metrics.registry import METRICS, Better, Metric

__all__ = [
    "METRICS",
    "Better",
    "Metric",
    "direction",
    "dynamic_degree",
    "flow_magnitude",
    "mask_iou",
    "motion_magnitude",
    "motion_ratio",
    "psnr",
    "ssim",
    "subject_drift",
    "swept_angle",
]
