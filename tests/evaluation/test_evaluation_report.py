"""The pages fetch nothing, run one script, show hostile names as text, and stay small for a thousand clips."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from musubi_ext.errors import UserError
from musubi_ext.evaluation.comparable import load
from musubi_ext.evaluation.compare import READINGS, compare
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.report import media, write_compare_report, write_report
from musubi_ext.evaluation.report.extremes import extremes
from musubi_ext.evaluation.report.media import media_of
from musubi_ext.evaluation.report.pictures import flow_pictures
from musubi_ext.evaluation.report.style import STYLE
from musubi_ext.evaluation.result import Result, results_document, write_results
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.verdict import judge
from musubi_ext.video import write_mp4

HOSTILE = "\"><img src=x onerror=alert(1)>'&\n\x1b[31m</script>.mp4"
VOID = {"meta", "img", "link", "input", "br"}
METRICS = ["subject_drift", "motion_magnitude", "psnr_first_last", "temporal_flicker"]


class Page(HTMLParser):
    """Tags, attributes and text; raises for a tag that is closed out of order or never."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag}: an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check_loads_nothing(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert not {"link", "iframe", "object", "embed", "form", "base"} & {name for name, _ in page.tags}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), f"{tag} {attributes}"
        for name in ("src", "poster", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), f"{tag} {name}"
        if "href" in attributes:
            assert (attributes["href"] or "")[1:] in ids
    policy = next(of["content"] or "" for of in page.all("meta") if of.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def moving(path: Path, shift: int, size: int = 48, frames: int = 9) -> Path:
    rng = np.random.default_rng(shift)
    ground = rng.integers(60, 90, (size, size * 2, 3), dtype=np.uint8)
    video = np.stack([np.roll(ground, shift * i, 1)[:, :size] for i in range(frames)])
    for i in range(frames):
        video[i, 16:32, 12 + i : 28 + i] = (220, 40, 40)
    write_mp4(path, video, 8)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    found = {f"clip{i}.mp4": moving(folder / f"{i}.mp4", i) for i in range(1, 4)}
    return found | {HOSTILE: moving(folder / "hostile.mp4", 5)}


@pytest.fixture(scope="module")
def results(videos: dict[str, Path]) -> dict[str, dict[str, Result]]:
    found = {n: evaluate(path, metrics=METRICS, masks=MaskSource.FLOW) for n, path in videos.items()}
    return found | {"torn.mp4": {name: Result(None, "px", 0, "48x48", "", "cut short") for name in METRICS}}


@pytest.fixture(scope="module")
def report(videos: dict[str, Path], results: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(results_document(results, {"masks": "flow"}), videos, path, title="<b>Mine</b>")
    return path


def test_the_page_is_well_formed_and_fetches_nothing(report: Path) -> None:
    page = Page(report)
    check_loads_nothing(page)
    assert "url(" not in report.read_text(encoding="utf-8")
    assert "<b>Mine</b>" in page.text  # as text
    assert all(of.get("alt") for of in page.all("img"))
    assert all(of.get("aria-label") for of in page.all("video") + page.all("svg"))
    assert "viewport" in [of.get("name") for of in page.all("meta")]
    assert "prefers-color-scheme: dark" in report.read_text(encoding="utf-8")


def test_hostile_names_are_text(report: Path) -> None:
    page = Page(report)
    assert not any(of.get("src") == "x" for of in page.all("img"))
    assert "onerror=alert(1)" in page.text
    assert "\x1b" not in report.read_text(encoding="utf-8")


def test_each_clip_is_shown_with_video_strip_mask_and_flow(report: Path, videos: dict[str, Path]) -> None:
    page = Page(report)
    found = page.all("video")
    assert len(found) == len(videos)
    for of in found:
        assert "controls" in of
        data = base64.b64decode((of["src"] or "").partition("base64,")[2])
        with av.open(io.BytesIO(data)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert sum(1 for _ in container.decode(video=0)) == 9
    kinds = [of["alt"] or "" for of in page.all("img")]
    for kind in ("Frames of", "Mask and track of", "Optical flow of"):
        assert sum(alt.startswith(kind) for alt in kinds) == len(videos)
    pictures = [of["src"] or "" for of in page.all("img") if of["src"]]
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture.partition("base64,")[2]))).verify()
    assert "no video was given for this clip" in page.text  # torn.mp4


def test_the_table_has_every_value_and_the_metrics_their_numbers(report: Path, results: dict) -> None:
    page, text = Page(report), report.read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(<td.*?)</tr>", text)
    assert len(rows) == len(results)
    value = results["clip1.mp4"]["motion_magnitude"].value
    assert f'data-v="{value:.7g}"' in text
    assert "unavailable in 1 of 5 clips" in page.text
    assert "cut short" in page.text
    assert 'aria-label="subject_drift: 4 clips' in text
    assert all(of.get("type") == "button" for of in page.all("button"))
    assert page.all("button")


def test_the_best_of_drift_is_not_the_frozen_one() -> None:
    def of(drift: float, speed: float) -> dict[str, Result]:
        values = {"subject_drift": drift, "motion_magnitude": speed}
        return {name: Result(value, "px", 16, "64x64", "test") for name, value in values.items()}

    clips = {"frozen": of(0.0, 0.0), "good": of(1.0, 1.0), "bad": of(5.0, 1.0)}
    found = extremes(clips, "subject_drift")
    assert found is not None
    assert (found.worst, found.best, found.passed_over) == ("bad", "good", ("frozen",))
    assert extremes(clips, "motion_magnitude") is None  # neither way is better
    assert extremes({"a": of(1, 1), "b": of(1, 1)}, "subject_drift") is None


def test_a_thousand_clips_stay_under_20_megabytes(tmp_path: Path, videos: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    names = ["subject_drift", "motion_magnitude", "psnr", "ssim", "temporal_flicker", "lpips", "objmc", "mask_iou"]
    clips = {
        f"a rather long name of a clip number {i:04}.mp4": {
            name: Result(float(value), "px", 81, "1280x720", "test", masks="flow")
            for name, value in zip(names, rng.uniform(1, 9, len(names)), strict=True)
        }
        for i in range(1000)
    }
    opened: list[Path] = []

    class Videos(dict):
        def __getitem__(self, name: str) -> Path:
            opened.append(path := videos["clip1.mp4"])
            return path

        def __contains__(self, name: object) -> bool:
            return True

    write_report(clips, Videos(), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 20_000_000
    assert 2 <= len(opened) <= 24
    page = Page(tmp_path / "report.html")
    assert len(page.all("video")) == len(opened)
    assert page.text.count("a rather long name") >= 1000


def test_a_video_that_is_too_large_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    write_mp4(tmp_path / "noise.mp4", noise, 8)
    monkeypatch.setattr(media, "MOST_BYTES", 3_000)
    found = media_of(tmp_path / "noise.mp4")
    assert found.video
    assert len(base64.b64decode(found.video.partition(",")[2])) <= 3_000
    assert any("of 40 frames" in note for note in found.notes)
    assert any("reduced" in note for note in found.notes)
    monkeypatch.setattr(media, "MOST_BYTES", 100)
    assert not media_of(tmp_path / "noise.mp4").video
    assert "no video" in media_of(tmp_path / "noise.mp4").notes[-1]


def test_a_clip_that_cannot_be_decoded_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "torn.mp4").write_bytes(b"not a video")
    found = media_of(tmp_path / "torn.mp4")
    assert (found.frames, found.video) == ("", "")
    assert "torn.mp4" in found.notes[0]


def test_flow_is_coloured_by_direction_and_speed() -> None:
    right, left = np.zeros((4, 4, 2), np.float32), np.zeros((4, 4, 2), np.float32)
    right[..., 0], left[..., 0] = 2, -1
    (first, second), bright = flow_pictures([right, left])
    assert bright == 2
    assert first[0, 0].tolist() == [255, 0, 0]
    assert second[0, 0].tolist() == pytest.approx([0, 128, 128], abs=1)


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    for wrong in ({"schema": "other", "version": 1, "clips": {}}, {"schema": "musubi-ext/results", "version": 2}, {}):
        with pytest.raises(UserError, match="report:"):
            write_report(wrong, {}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_the_comparison_page_shows_verdict_metrics_and_both_videos(
    tmp_path: Path, videos: dict[str, Path], results: dict
) -> None:
    better = {
        name: {
            metric: Result(**{**of.__dict__, "value": None if of.value is None else of.value / 2})
            if metric == "subject_drift"
            else of
            for metric, of in clip.items()
        }
        for name, clip in results.items()
    }
    write_results(tmp_path / "base.json", results)
    write_results(tmp_path / "<pair>.json", better)
    (tmp_path / "gate.toml").write_text("[gate]\nmin_scenes = 4\n[metrics.lpips]\nmax = 1\n")
    found = compare(load(tmp_path / "base.json"), load(tmp_path / "<pair>.json"))
    html = tmp_path / "compare.html"
    verdict = judge(found, tmp_path / "gate.toml")
    write_compare_report(found, html, verdict=verdict, base_videos=videos, pair_videos=videos)
    page = Page(html)
    check_loads_nothing(page)
    assert "refused" in page.text
    assert "lpips is unavailable in 5 of 5 scenes: it was not measured" in page.text
    assert "<pair>.json against base.json" in page.text
    assert found.base.sha256 in page.text
    labels = [of["id"] or "" for of in page.all("article") if of.get("id")]
    assert any(label.startswith("base-") for label in labels)
    assert any(label.startswith("pair-") for label in labels)
    assert [of.get("id") for of in page.all("table")] == ["table", "scenes"]


def test_no_rule_for_a_part_of_the_page_lays_out_a_table_row() -> None:
    """Rows are classed by how a metric reads; `.pair { display: grid }` for two videos took the row's cells apart."""
    for reading in READINGS:
        for selector, rules in re.findall(r"([^{}]*)\{([^{}]*)\}", STYLE):
            parts = [one.strip() for one in selector.split(",")]
            assert f".{reading}" not in parts or "display" not in rules
