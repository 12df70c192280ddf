"""`evaluate --reference`: FID and FVD beside the clips' own metrics, or the reason why there are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from musubi_ext.cli import main
from musubi_ext.evaluation.features import ModelSource
from musubi_ext.evaluation.features.sets import evaluate_sets
from musubi_ext.video import Frames, write_mp4

INCEPTION, I3D = "inception-2015-12-05.pt", "i3d_torchscript.pt"


@pytest.fixture
def folders(tmp_path: Path, video: Callable[..., Frames]) -> tuple[Path, Path]:
    for name, first in (("made", 0), ("real", 10)):
        (tmp_path / name).mkdir()
        for seed in range(first, first + 3):
            write_mp4(tmp_path / name / f"{seed}.mp4", video(17, seed=seed), 16)
    return tmp_path / "made", tmp_path / "real"


def test_both_distances_are_in_the_results(
    folders: tuple[Path, Path], weights: Path, models: ModelSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, real = folders
    out = tmp_path / "out.json"
    words = ["evaluate", str(made), "-o", str(out), "--metric", "fid", "fvd", "motion_magnitude", "--workers", "1"]
    named = ["--reference", str(real), "--models", str(weights), "--inception", INCEPTION, "--i3d", I3D]
    assert main([*words, *named]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    expected, said = evaluate_sets(made, real, models=models), capsys.readouterr().out
    for name in ("fid", "fvd"):
        assert document["sets"][name]["value"] == expected[name].value
        assert document["sets"][name]["videos"] == [3, 3]
        assert f"{name} " in said
    assert all(set(clip) == {"motion_magnitude"} for clip in document["clips"].values())


def test_without_a_network_the_reason_stands_there(folders: tuple[Path, Path], tmp_path: Path) -> None:
    made, real = folders
    out = tmp_path / "out.json"
    assert main(["evaluate", str(made), "-o", str(out), "--metric", "fid", "--reference", str(real)]) == 0
    (result,) = json.loads(out.read_text(encoding="utf-8"))["sets"].values()
    assert result["value"] is None
    assert "inception" in result["unavailable"]
