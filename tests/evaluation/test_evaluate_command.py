"""`musubi-ext evaluate`: a folder in, strict JSON out, in our layout or Circle-Rotate's; mistakes named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from musubi_ext.cli import main
from musubi_ext.evaluation.comparable import load
from musubi_ext.evaluation.formats import CIRCLE_ROTATE, circle_rotate
from musubi_ext.evaluation.journal import journal_path
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.result import Result, read_results
from musubi_ext.orbits.render import render, write_dataset
from musubi_ext.video import write_mp4

METRIC = ["--metric", "motion_magnitude", "psnr_first_last", "subject_drift"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_dataset(folder, 3)
    return folder


def strict(path: Path) -> dict[str, object]:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert isinstance(document, dict)
    return document


def test_the_same_folder_by_place_and_by_flag(clips: Path, tmp_path: Path) -> None:
    by_place, by_flag = tmp_path / "a.json", tmp_path / "b.json"
    assert main(["evaluate", str(clips), "--truth", str(clips), "--metrics", *METRIC[1:], "-o", str(by_place)]) == 0
    words = ["evaluate", *METRIC, "--input_dir", str(clips), "--output", str(by_flag), "--truth", str(clips)]
    assert main([*words, "--workers", "1"]) == 0
    assert read_results(by_place) == read_results(by_flag)
    assert strict(by_flag)["settings"] == {"masks": "color", "profile": "exact"}
    (drift,) = {clip["subject_drift"].masks for clip in read_results(by_flag).values()}
    assert drift == "color"
    assert not journal_path(by_flag).exists()


def test_a_bad_clip_is_in_the_results_and_the_others_are_not_measured_again(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "clips", tmp_path / "out.json"
    folder.mkdir()
    for clip in clips.glob("*.mp4"):
        (folder / clip.name).write_bytes(clip.read_bytes())
    (folder / "torn.mp4").write_bytes(b"no video")
    words = ["evaluate", *METRIC, "--input_dir", str(folder), "-o", str(out), "--masks", "flow"]
    assert main(words) == 1
    first = read_results(out)
    assert all("torn.mp4" in str(result.unavailable) for result in first.pop("torn.mp4").values())
    assert all(results["motion_magnitude"].value for results in first.values())
    assert "torn.mp4" in capsys.readouterr().err
    assert len(journal_path(out).read_text().splitlines()) == 3
    (folder / "torn.mp4").unlink()
    monkeypatch.setattr("musubi_ext.evaluation.pool.outlive", None)  # nothing is left to measure
    assert main(words) == 0
    assert read_results(out) == first
    assert not journal_path(out).exists()


def test_circle_rotates_layout(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "flat.json"
    words = ["evaluate", str(clips), *METRIC, "--truth", str(clips), "-o", str(out), "--format", "circle-rotate"]
    assert main(words) == 0
    for values in strict(out).values():
        reasons = values.pop("unavailable")
        assert set(values) == {"drift", "psnr", "motion_magnitude"}
        assert all(isinstance(value, float) for value in values.values())
        assert set(values) | set(reasons) == set(CIRCLE_ROTATE)
        assert reasons["ssim"] == "not measured"


def test_a_value_that_is_unavailable_is_left_out_of_the_flat_layout() -> None:
    lost = Result(None, "px", 16, "64x64", "numpy", "the subject was lost")
    flat = circle_rotate({"a.mp4": {"subject_drift": lost}})["a.mp4"]
    assert "drift" not in flat
    assert flat["unavailable"]["drift"] == "the subject was lost"
    found = {ours: Result(1.5, "1", 2, "64x64", "numpy") for ours in CIRCLE_ROTATE.values()}
    assert circle_rotate({"a.mp4": found})["a.mp4"] == dict.fromkeys(CIRCLE_ROTATE, 1.5)


def test_the_names_of_circle_rotate_lead_to_metrics_that_exist() -> None:
    assert set(CIRCLE_ROTATE.values()) <= set(METRICS)


def test_a_generated_clip_states_its_scene(clips: Path, tmp_path: Path) -> None:
    """Prompt, first frame and seed come from the file, also when the clip was measured by an earlier run."""
    folder, out = tmp_path / "made", tmp_path / "out.json"
    folder.mkdir()
    frames = render(3).frames
    request = {"prompt": "a car", "first": {"sha256": "ab" * 32}, "seed": 7}
    write_mp4(folder / "made.mp4", frames, 16, comment={"request": request})
    write_mp4(folder / "foreign.mp4", frames, 16, comment={"request": "by hand"})
    (folder / "torn.mp4").write_bytes(b"no video")
    scenes = {"made.mp4": {"prompt": "a car", "first_frame": "ab" * 32, "seed": 7}}
    for _ in range(2):
        assert main(["evaluate", "--metric", "motion_magnitude", "--input_dir", str(folder), "-o", str(out)]) == 1
        assert strict(out)["scenes"] == scenes
    assert dict(load(out).scenes) == scenes


def test_every_mistake_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(tmp_path / "none"), "-o", "r.txt", "--html", "r.pdf", "--masks", "truth", "--workers", "0"]
    words += [
        "--metric",
        "psrn",
        "fid",
        "--truth",
        str(tmp_path / "t"),
        "--asked",
        str(tmp_path / "a"),
        "--i3d",
        "x.pt",
    ]
    assert main(words) == 2
    err = capsys.readouterr().err
    for said in ("none: expected a folder", "--output r.txt", "--html r.pdf", "--workers 0", "did you mean psnr?",
                 "--truth", "--asked", "--metric fid: compares two sets", "--i3d x.pt"):  # fmt: skip
        assert said in err, said
    assert main(["evaluate", "-o", "r.json"]) == 2
    assert main(["evaluate", str(tmp_path), "--input_dir", str(tmp_path), "-o", "r.json"]) == 2
    assert "expected one folder of clips" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["evaluate", "--metric", "all", "--input_dir", str(clips), "--output", str(out), "--dry-run"]) == 0
    assert "3 clips" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
