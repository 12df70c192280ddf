"""How a training can end early."""

from __future__ import annotations


class DivergedError(RuntimeError):
    """The loss is no longer a number; going on would only destroy the adapter."""


class TrainingFailed(RuntimeError):  # noqa: N818 - what happened, not what is wrong with the input
    """At least one expert was not trained; the others' files are complete."""
