"""What a preview's file is called: by its step, which is how a job's record says of which step it is."""

from __future__ import annotations

import re

NAME = "preview-{step}.jpg"
_READ = re.compile(r"preview-([0-9]+)\.jpg")


def step_of(name: str) -> int | None:
    """The step in a preview's file name; None for any other name."""
    found = _READ.fullmatch(name)
    return int(found[1]) if found else None
