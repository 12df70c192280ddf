"""Learned features of frames: which weights are meant, where they lie, and what they say."""

from musubi_ext.evaluation.features.pinned import PINNED, Network, Pinned
from musubi_ext.evaluation.features.source import ModelSource

__all__ = ["PINNED", "ModelSource", "Network", "Pinned"]
