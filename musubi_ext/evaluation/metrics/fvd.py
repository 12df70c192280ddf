"""FVD: how far two sets of videos lie apart, motion included."""

from __future__ import annotations

from musubi_ext.evaluation.features.pinned import PINNED, Network
from musubi_ext.evaluation.features.set_metrics import SetMetric
from musubi_ext.evaluation.features.source import ModelSource

FVD = SetMetric(
    name="fvd",
    unit="1",
    source="Unterthiner et al. 2018: Fréchet distance of I3D features of videos, 16 frames spread over each",
    licence=PINNED[Network.I3D].licence,
    network=Network.I3D,
    sample="video",
    embed=ModelSource.i3d,
)
