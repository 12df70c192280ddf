"""FID: how far the pictures of two sets of videos lie apart, whatever their order in time."""

from __future__ import annotations

from musubi_ext.evaluation.features.pinned import PINNED, Network
from musubi_ext.evaluation.features.set_metrics import SetMetric
from musubi_ext.evaluation.features.source import ModelSource

FID = SetMetric(
    name="fid",
    unit="1",
    source="Heusel et al. 2017: Fréchet distance of Inception features of 16 sampled frames of each video",
    licence=PINNED[Network.INCEPTION].licence,
    network=Network.INCEPTION,
    sample="frame",
    embed=ModelSource.inception,
)
