"""What tests of several packages share: a pipeline of random weights, the real sample clips, one torch thread."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = Path(os.environ.get("MUSUBI_EXT_SAMPLE_DATA", ROOT.parent / "shared" / "data" / "circle_rotate"))


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a shell's background, which children inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> Iterator[None]:
    """Sums in a fixed order, and tests run side by side without fighting for cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_of_the_test_before() -> None:
    """A service in this process sets torch's threads, and BentoML's command line silences our loggers."""
    import torch

    torch.set_num_threads(1)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith(("musubi_ext", "serving")) and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a complete pocket pipeline with two layers and random weights. Read it, never write to it."""
    from musubi_ext.pocket.config import random_pipeline

    return random_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Folder of the real Circle-Rotate clips: train/*.mp4 with captions, *.gif, reference_metrics.json."""
    if not (SAMPLES / "reference_metrics.json").is_file():
        pytest.skip(f"the sample clips are not at {SAMPLES}: set MUSUBI_EXT_SAMPLE_DATA to their folder")
    return SAMPLES
