"""`data check` and `data caption` as a user runs them: what they print, write, refuse, and their exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from musubi_ext.commands import data_caption, data_check
from musubi_ext.commands.parser import Parser
from musubi_ext.errors import UserError


def run(verb: ModuleType, *words: str | Path) -> int:
    parser = Parser(prog="musubi-ext data")
    verb.add_arguments(parser)
    return int(verb.run(parser.parse_args([str(word) for word in words])))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rendered clips with captions and their data set; read, never written to."""
    from musubi_ext.orbits.render import write_dataset

    folder = tmp_path_factory.mktemp("rendered")
    write_dataset(folder / "clips", 2, domain="orbit", family="train", look="plain", size=(64, 64), frames=17, seed=0)
    (folder / "set.toml").write_text(
        '[general]\nresolution = [64, 64]\ncaption_extension = ".txt"\n[[datasets]]\ntarget_frames = [17]\n'
        f'video_directory = "{folder / "clips"}"\ncache_directory = "{folder / "cache"}"\n',
        encoding="utf-8",
    )
    (folder / "limits.toml").write_text(
        "[checks]\nmin_swept_angle = false\nmax_unsteadiness = false\nmax_centring = false\n"
        "max_centring_spread = false\nmin_confidence = false\n",
        encoding="utf-8",
    )
    return folder


def test_check_writes_the_report_and_ends_with_0_or_1(
    rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    words = [rendered / "set.toml", "--thresholds", rendered / "limits.toml", "--report", report, "--workers", "1"]
    assert run(data_check, *words, "--dry-run") == 0
    assert "2 clips would be checked" in capsys.readouterr().out
    assert not report.exists()
    assert run(data_check, *words) == 0
    assert "2 clips: 2 fit, 0 unfit, 0 unreadable" in capsys.readouterr().out
    strict = tmp_path / "strict.toml"
    strict.write_text("[checks]\nmin_sharpness = 1e6\n", encoding="utf-8")
    assert run(data_check, rendered / "set.toml", "--thresholds", strict, "--report", report) == 1
    out = capsys.readouterr().out
    assert "blurred or flat" in out
    found = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert found["counts"]["unfit"] == 2
    assert found["thresholds"]["min_sharpness"] == 1e6
    assert (report / "report.html").is_file()


def test_check_refuses_everything_wrong_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        run(
            data_check, tmp_path / "none.toml", "--thresholds", tmp_path / "no.toml", "--workers", "0", "--address", "x"
        )
    assert len(raised.value.problems) == 4


def test_check_by_ray_without_ray_is_one_sentence(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed"):
        run(data_check, rendered / "set.toml", "--engine", "ray", "--report", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_the_real_clips_are_checked(
    sample_data: Path, rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six of the seven were published with every frame doubled."""
    toml = tmp_path / "real.toml"
    toml.write_text(
        '[general]\nresolution = [180, 320]\nenable_bucket = true\ncaption_extension = ".txt"\n[[datasets]]\n'
        f'target_frames = [29]\nvideo_directory = "{sample_data / "train"}"\ncache_directory = "{tmp_path}"\n',
        encoding="utf-8",
    )
    words = [toml, "--thresholds", rendered / "limits.toml", "--report", tmp_path / "report"]
    assert run(data_check, *words, "--workers", "2") == 1
    capsys.readouterr()
    clips = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["clips"]
    reasons = {Path(clip["path"]).stem: [reason["check"] for reason in clip["reasons"]] for clip in clips}
    assert reasons.pop("cat") == []
    assert set(map(tuple, reasons.values())) == {("frozen",)}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_captions_from_folder_names_in_the_order_of_the_tags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path / "right_to_left" / "eye_level, full_shot" / "a blue_sedan" / "1.mp4")
    touch(tmp_path / "Circle Left->Right" / "a gray-blue SUV" / "2.MOV")
    assert run(data_caption, tmp_path, "--from-folder-names", "--dry-run") == 0
    assert not list(tmp_path.rglob("*.txt"))
    assert "2 captions would be written" in capsys.readouterr().out
    assert run(data_caption, tmp_path, "--from-folder-names") == 0
    captions = sorted(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.txt"))
    assert captions == [
        "camera circles left to right, a gray-blue SUV\n",
        "eye level, full shot, camera circles right to left, a blue sedan\n",
    ]
    assert run(data_caption, tmp_path, "--from-folder-names", "--tags", "dataset", "--overwrite") == 0
    captions = sorted(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.txt"))
    assert captions[1] == "eye level, full shot, Circle Right->Left, a blue sedan\n"


def test_captions_that_exist_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path / "lr" / "old.mp4").with_suffix(".txt").write_text("mine", encoding="utf-8")
    touch(tmp_path / "lr" / "new_cat.mp4")
    assert run(data_caption, tmp_path, "--template", "{name} on {folder}, 100 {{%}}") == 0
    assert "1 captions written, 1 exist" in capsys.readouterr().out
    assert (tmp_path / "lr" / "old.txt").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "lr" / "new_cat.txt").read_text(encoding="utf-8") == "new cat on lr, 100 {%}\n"


def test_a_clip_without_a_direction_stops_all_and_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "right_to_left" / "1.mp4")
    for index in range(12):
        touch(tmp_path / "cats" / f"{index}.mp4")
    touch(tmp_path / "right_to_left" / "left_to_right" / "2.mp4")
    for how in (["--from-folder-names"], ["--template", "{camera}, a cat"]):
        with pytest.raises(UserError) as raised:
            run(data_caption, tmp_path, *how)
        assert len(raised.value.problems) == 11
        assert "the same for 3 more clips" in raised.value.problems[-1]
    assert not list(tmp_path.rglob("*.txt"))


@pytest.mark.parametrize("template", ["{nam}", "{name.__class__}", "{name!r}", "{name:>99}", "{", "{0}", " "])
def test_templates_hold_plain_known_fields_only(tmp_path: Path, template: str) -> None:
    touch(tmp_path / "1.mp4")
    with pytest.raises(UserError, match="--template"):
        run(data_caption, tmp_path, "--template", template)


def test_names_that_are_no_text_are_refused_not_written(tmp_path: Path) -> None:
    touch(tmp_path / "a\u202eb.mp4")
    with pytest.raises(UserError, match="printable"):
        run(data_caption, tmp_path, "--template", "{name}")
    with pytest.raises(UserError, match="found nothing"):
        run(data_caption, tmp_path / "none", "--from-folder-names")
