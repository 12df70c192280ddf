"""benchmarks/serving_levers.py on a tiny base: what is measured, and a reason where nothing is."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_each_lever_has_figures_or_a_reason(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    spec = importlib.util.spec_from_file_location("levers_benchmark", BENCHMARKS / "serving_levers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept = (module.NONE, "layerwise_casting float8_e4m3fn", "vae_tile 256", "group_offload leaf")
    monkeypatch.setattr(module, "CHOICES", {name: module.CHOICES[name] for name in kept})
    (tmp_path / "page.md").write_text("<!-- levers:start --><!-- levers:end -->")
    words = ["--base", str(tiny_pipeline), "--size", "32x32", "--frames", "5", "--steps", "3"]
    module.main([*words, "--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "page.md")])
    found = json.loads((tmp_path / "found.json").read_text())["levers"]
    assert found[module.NONE]["ssim"] == found["vae_tile 256"]["ssim"] == 1.0  # a tile is larger than the picture
    assert 0 < found[kept[1]]["ssim"] < 1.0
    assert found["group_offload leaf"] == {"unavailable": 'group_offload = "leaf" needs a GPU'}
    assert (tmp_path / "page.md").read_text().count("| unavailable: no GPU |") == 3
    with pytest.raises(SystemExit):
        module.main(["--steps", "1"])
    capsys.readouterr()
