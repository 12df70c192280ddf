"""The registry's benchmark runs, at a size that measures little, and its second load keeps the goal even so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/registry.py, under a name that the folder of these tests does not have."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("registry_benchmark", BENCHMARKS / "registry.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_loads_are_timed_and_the_second_is_quick(benchmark: ModuleType, uri: str, tmp_path: Path) -> None:
    document = benchmark.run(tmp_path / "files", uri, 64, 10, dim=512, ffn=1024, layers=4)
    assert document["bytes"] > 10e6
    assert {len(taken) for taken in document["seconds"].values()} == {1, 3, 10}
    assert min(document["seconds"]["second load"]) < benchmark.GOAL
    assert "| second load |" in benchmark.markdown(document)
