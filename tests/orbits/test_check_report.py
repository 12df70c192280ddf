"""report.json is strict JSON and says everything; report.html loads nothing and shows hostile names as text."""

from __future__ import annotations

import argparse
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from checked_clips import EXPECTED, HOSTILE, NO_ORBIT, NO_ORBIT_TOML, data_set, faulty

from musubi_ext.commands import data_check
from musubi_ext.errors import shown
from musubi_ext.orbits.captions import mirror_caption
from musubi_ext.orbits.checks.run import check_dataset, local_engine
from musubi_ext.orbits.checks.store import CheckStore
from musubi_ext.orbits.checks.verdicts import CHECKS
from musubi_ext.orbits.render import write_dataset
from musubi_ext.orbits.report.histogram import histogram
from musubi_ext.orbits.report.write import Report, write_report


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("checked")
    config = faulty(folder / "data")
    with CheckStore(folder / "report") as store:
        verdicts = check_dataset(config, NO_ORBIT, store, local_engine(1))
        written = write_report(folder / "report", config, NO_ORBIT, verdicts, store)
        before = written.html.read_bytes(), written.json.read_bytes()
        write_report(folder / "report", config, NO_ORBIT, verdicts, store)
    assert (written.html.read_bytes(), written.json.read_bytes()) == before
    return written


def refuse(constant: str) -> float:
    raise ValueError(constant)


def test_json_is_strict_and_records_limits_states_and_reasons(report: Report) -> None:
    found = json.loads(report.json.read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["schema_version"] == 1
    assert found["thresholds"] == NO_ORBIT.as_dict()
    assert found["counts"] == {
        state: sum(expected == state for expected, _ in EXPECTED.values()) for state in ("fit", "unfit", "unreadable")
    }
    assert len(found["clips"]) == len(EXPECTED)
    for clip in found["clips"]:
        assert bool(clip["reasons"]) == (clip["state"] != "fit")
        missing = {name for name, value in clip["values"].items() if value is None} - {"copy_distance"}
        assert missing == clip["unavailable"].keys()


def test_the_page_loads_nothing_and_runs_one_script(report: Report) -> None:
    page = Page(report.html.read_text(encoding="utf-8"))
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert not {"link", "iframe", "object", "form", "a"} & set(names)
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), f"{tag} {attributes}"
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert "url(" not in report.html.read_text(encoding="utf-8")
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)


def test_the_page_shows_each_check_each_clip_and_the_rejected_with_pictures(report: Report) -> None:
    page = Page(report.html.read_text(encoding="utf-8"))
    names, text = [tag for tag, _ in page.tags], "\n".join(page.text)
    assert names.count("tr") == 1 + len(EXPECTED)
    unfit = [name for name, (state, _) in EXPECTED.items() if state == "unfit"]
    assert names.count("img") == len(unfit)
    assert names.count("svg") <= len(CHECKS)
    assert all(words in text for _, words in EXPECTED.values())
    assert shown(HOSTILE) in text
    assert HOSTILE not in text


def test_a_convention_that_cannot_be_learned_is_said_for_each_data_set(report: Report) -> None:
    found = json.loads(report.json.read_text(encoding="utf-8"))["caption_directions"]
    assert [one["dataset"] for one in found] == [0, 1]
    text = "\n".join(Page(report.html.read_text(encoding="utf-8")).text)
    for one in found:
        assert (one["convention"], one["learned"], one["follow"], one["clips"]) == (None, None, None, 0)
        assert "no clips with a direction both in the caption and measured, 5 are needed" in one["unavailable"]
    assert text.count("unavailable: no clips with a direction") == 2


def check(toml: Path, limits: str, report: Path) -> tuple[int, dict[str, Any], str]:
    """Run `data check`: its status, report.json, and the text of report.html."""
    (report.parent / "limits.toml").write_text(limits, encoding="utf-8")
    parser = argparse.ArgumentParser()
    data_check.add_arguments(parser)
    words = [str(toml), "--thresholds", str(report.parent / "limits.toml"), "--report", str(report), "--workers", "1"]
    status = data_check.run(parser.parse_args(words))
    found = json.loads((report / "report.json").read_text(encoding="utf-8"))
    return status, found, "\n".join(Page((report / "report.html").read_text(encoding="utf-8")).text)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rendered orbits that circle both ways, their captions of the camera's own way. Copy it, leave it as it is."""
    folder = tmp_path_factory.mktemp("rendered") / "clips"
    write_dataset(folder, 6, look="textured")
    return folder


@pytest.mark.parametrize("convention", ["camera", "picture"])
def test_a_swapped_caption_is_found_under_either_convention(
    rendered: Path, tmp_path: Path, convention: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rendered, tmp_path / "clips")
    captions = sorted((tmp_path / "clips").glob("*.txt"))
    for index, file in enumerate(captions):
        if (convention == "picture") != (index == 3):
            file.write_text(mirror_caption(file.read_text(encoding="utf-8")), encoding="utf-8")
    toml = data_set(tmp_path, "clips").path
    limits = NO_ORBIT_TOML.replace("min_confidence = false\n", "")
    status, found, text = check(toml, limits, tmp_path / "report")
    assert status == 1
    learned = {"dataset": 0, "convention": convention, "learned": True, "follow": 5, "clips": 6, "unavailable": None}
    assert found["caption_directions"] == [learned]
    sentence = f'"{convention}", '
    assert sentence in text
    assert "5 of 6 clips follow it" in text
    printed = " ".join(capsys.readouterr().out.split())
    assert f"directions in the captions: {sentence}" in printed
    assert "5 of 6 clips follow it" in printed
    reasons = {Path(clip["path"]).stem: clip["reasons"] for clip in found["clips"]}
    (wrong,) = reasons.pop(captions[3].stem)
    assert wrong["check"] == "caption"
    assert "but the camera circles the other way than in the 3 of 4 clips that say so" in wrong["text"]
    assert not any(reasons.values())
    measured = (tmp_path / "report" / "measured.jsonl").read_bytes()
    other = {"camera": "picture", "picture": "camera"}[convention]
    given = f'{limits}caption_direction = "{other}"\n'
    _, found, _ = check(toml, given, tmp_path / "report")
    assert found["caption_directions"] == [{**learned, "convention": other, "learned": False, "follow": 1}]
    assert found["counts"]["unfit"] == 5
    status, found, text = check(toml, f"{limits}caption_direction = false\n", tmp_path / "report")
    assert (status, found["counts"]["fit"]) == (0, 6)
    assert found["caption_directions"][0]["unavailable"] == "caption_direction = false"
    assert "unavailable: caption_direction = false" in text
    assert (tmp_path / "report" / "measured.jsonl").read_bytes() == measured  # no limit changes what is measured


def test_the_real_captions_name_the_way_through_the_picture(sample_data: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for file in (sample_data / "train").glob("*.*"):
        shutil.copyfile(file, clips / file.name)
    toml = tmp_path / "real.toml"
    toml.write_text(
        '[general]\nresolution = [180, 320]\nenable_bucket = true\ncaption_extension = ".txt"\n[[datasets]]\n'
        f'target_frames = [29]\nvideo_directory = "{clips}"\ncache_directory = "{tmp_path}"\n',
        encoding="utf-8",
    )
    limits = NO_ORBIT_TOML.replace("min_confidence", "max_frozen")  # six of them were published with frames doubled
    status, found, _ = check(toml, limits, tmp_path / "report")
    (learned,) = found["caption_directions"]
    assert (status, learned["convention"], learned["follow"], learned["clips"]) == (0, "picture", 7, 7)
    file = clips / "demo7.txt"
    file.write_text(mirror_caption(file.read_text(encoding="utf-8")), encoding="utf-8")
    status, found, text = check(toml, limits, tmp_path / "report")
    assert status == 1
    assert [Path(clip["path"]).stem for clip in found["clips"] if clip["state"] != "fit"] == ["demo7"]
    assert "6 of 7 clips follow it" in text
    assert "circles the same way as in the 6 of 6 clips that say right to left" in text


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [0.1, 5.0, 2e9], [-3.0, 4.0]])
def test_histograms_draw_any_values(values: list[float]) -> None:
    for check in CHECKS:
        for limit in (None, 0.0, 1e3):
            drawing = Page(histogram(check, values, limit))
            bars = [float(attributes["height"] or "nan") for tag, attributes in drawing.tags if tag == "rect"]
            assert bars
            assert all(0 < height <= 92 for height in bars)


def test_rejected_clips_have_their_own_colour_also_beside_the_limit() -> None:
    check = next(check for check in CHECKS if check.limit == "min_frames")
    values = [9.0, 16.9, 17.0, 17.0]
    bars = [attributes for tag, attributes in Page(histogram(check, values, 17.0)).tags if tag == "rect"]
    assert [bar["class"] for bar in bars] == ["bad", "bad", "good"]
    assert float(bars[2]["y"] or 0) + float(bars[2]["height"] or 0) == pytest.approx(float(bars[1]["y"] or 0), abs=0.2)
