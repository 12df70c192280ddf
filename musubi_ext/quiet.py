"""Loading weights without a page of bars and remarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No bars for weights that load in a second, and no remarks about CLIP, which Wan2.2 does not use."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    transformers_logging.set_verbosity_error()
    for log in bars:
        log.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for log in bars:
            log.enable_progress_bar()
