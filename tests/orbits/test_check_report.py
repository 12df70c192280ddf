"""report.json is strict JSON and says everything; report.html loads nothing and shows hostile names as text."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from checked_clips import EXPECTED, HOSTILE, NO_ORBIT, faulty

from musubi_ext.errors import shown
from musubi_ext.orbits.checks.run import check_dataset, local_engine
from musubi_ext.orbits.checks.store import CheckStore
from musubi_ext.orbits.checks.verdicts import CHECKS
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
