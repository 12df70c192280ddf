"""What is wrong with a caption: missing, empty, of two minds, or against the motion that was measured."""

from __future__ import annotations

from musubi_ext.orbits.captions import LEFT_TO_RIGHT, RIGHT_TO_LEFT, direction

NAMES = {+1: RIGHT_TO_LEFT, -1: LEFT_TO_RIGHT}


def caption_fault(
    caption: str, problem: str, measured: int, confidence: float, *, required: bool, min_confidence: float | None
) -> str:
    """The first fault of a caption in words, "" when there is none.

    `problem` is why it could not be read; `measured` the direction seen in the pixels (+1 right to left, −1, 0 unknown)
    with its `confidence` 0 to 1. With `min_confidence` None captions are not held against the motion.
    """
    if problem:
        return problem if required else ""
    said = {direction(tag) for tag in caption.split(",")} - {0}
    if len(said) > 1:
        return f'the caption names both directions: "{caption}"'
    contradicted = bool(said) and measured == -sum(said)
    if contradicted and min_confidence is not None and confidence >= min_confidence:
        return (
            f"the caption says {NAMES[-measured]}, the camera circles {NAMES[measured]} (confidence {confidence:.2f})"
        )
    return ""
