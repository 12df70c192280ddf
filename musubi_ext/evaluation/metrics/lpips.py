"""LPIPS with AlexNet: against the truth, and of the last frame against the first."""

from __future__ import annotations

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.features.pinned import PINNED, Network
from musubi_ext.evaluation.features.shared import backend_of
from musubi_ext.evaluation.metrics.registry import Better, metric
from musubi_ext.evaluation.result import Reading, UnavailableError

LICENCE = f"{PINNED[Network.LPIPS].licence} (LPIPS), {PINNED[Network.ALEXNET].licence} (AlexNet)"
BACKEND = f"{backend_of(Network.ALEXNET)}, {backend_of(Network.LPIPS)}"


@metric(
    "lpips",
    unit="1",
    better=Better.LOWER,
    range=(0, None),
    source="Zhang et al. 2018, version 0.1 with AlexNet, against the truth, mean over frames",
    backend=BACKEND,
    licence=LICENCE,
)
def lpips_truth(clip: Clip) -> Reading:
    """Mean over frames of the distance from the truth."""
    distances = clip.models.lpips(clip.frames, clip.truth.frames)
    return Reading(float(distances.mean()), len(clip.frames), backend=clip.models.backend(Network.LPIPS))


@metric(
    "lpips_first_last",
    unit="1",
    better=Better.REPORT,
    range=(0, None),
    source='Circle-Rotate "fidelity": first frame against last, version 0.1 with AlexNet; a static video scores best',
    backend=BACKEND,
    licence=LICENCE,
)
def lpips_first_last(clip: Clip) -> Reading:
    """Distance of the last frame from the first."""
    if clip.shape[0] < 2:
        raise UnavailableError("first against last needs two frames, the clip has one")
    first, last = clip.sampled[:1], clip.sampled[-1:]
    distance = float(clip.models.lpips(first, last)[0])
    return Reading(distance, 2, backend=clip.models.backend(Network.LPIPS))
