"""The benchmarks of the data path run, at sizes that measure nothing, and compare what they say they compare."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_checking_is_timed_and_its_memory_read(tmp_path: Path) -> None:
    from checking import growth

    name, seconds, speed, own, everyone = growth(tmp_path, 3, 1)
    assert name == "3 clips, 17 frames, 64x64"
    assert float(seconds.split()[0]) > 0
    assert float(speed.split()[0]) > 0
    assert 10 < float(own.split()[0]) < float(everyone.split()[0])


@pytest.mark.skipif("MUSUBI_TUNER_HOME" not in os.environ, reason="no musubi-tuner: MUSUBI_TUNER_HOME")
@pytest.mark.filterwarnings("ignore:In CPU autocast")  # upstream, in float32
def test_caching_is_compared_file_by_file(tmp_path: Path) -> None:
    import caching

    from musubi_ext.hosts.musubi.importing import import_host

    import_host()
    *_, difference = caching.throughput(tmp_path, 4, 2, 5, 32)
    assert float(difference) <= 1e-5


def test_other_tensors_are_no_small_difference(tmp_path: Path) -> None:
    from caching import difference

    for folder, name, value in (("a", "x", 1.0), ("b", "x", 1.5)):
        (tmp_path / folder).mkdir()
        save_file({name: torch.full((2,), value)}, tmp_path / folder / "c_wan.safetensors")
    assert difference(tmp_path / "a", tmp_path / "b") == 0.5
    save_file({"y": torch.ones(2)}, tmp_path / "b" / "c_wan.safetensors")
    with pytest.raises(AssertionError, match="other tensors"):
        difference(tmp_path / "a", tmp_path / "b")


def test_every_marker_that_the_script_writes_is_in_the_document() -> None:
    page = (BENCHMARKS.parent / "docs" / "DATA_RESULTS.md").read_text(encoding="utf-8")
    for name in ("caching", "caching_again", "checking", "checking_memory", "orbit-geometry", "orbit-geometry-real"):
        assert page.count(f"<!-- {name}:start -->") == page.count(f"<!-- {name}:end -->") == 1
