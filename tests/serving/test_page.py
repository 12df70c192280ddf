"""The page in a real Chromium: upload, run, watch, cancel, compare, a bad file; by keyboard, on a phone, with a key."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_double import Adapters, JobsDouble, KeysDouble, served, worked
from PIL import Image
from test_uploads import png

from serving.api import create_app
from serving.config import ServiceConfig
from serving.http.schemas import Model
from serving.keys import SCOPES, Key

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
SHOTS = os.environ.get("MUSUBI_EXT_SCREENSHOTS")  # a folder: every test leaves a picture of the page there
BETTER = {"value": 1.25, "unit": "px", "unavailable": None}
MODELS = [
    Model(id="pocket-i2v", kind="base"),
    Model(id="circle-rotate@champion", kind="alias", version=2),
    Model(id="circle-rotate/2", version=2, aliases=["champion"], serving=True),
    Model(id="circle-rotate/1", version=1, aliases=["previous"]),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    return JobsDouble(tmp_path)


@pytest.fixture
def address(jobs: JobsDouble, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("serving.http.catalog.Catalog.models", lambda _: MODELS)
    with served(create_app(jobs, ServiceConfig.of({}), adapters=Adapters()), free_port) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh page, opened; nothing may go wrong in its console, and nothing may be loaded from elsewhere."""
    options = getattr(request, "param", {})
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(10_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda asked: wrong.append(asked.url) if not asked.url.startswith((address, "blob:", "data:")) else None,
    )
    page.goto(address)
    page.wait_for_selector("#versions input")
    yield page
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{request.node.name}.png"), full_page=True)
    context.close()
    expected = ("the server responded with a status of 4", "ERR_INTERNET_DISCONNECTED")  # what tests provoke
    assert [text for text in wrong if not any(words in text for words in expected)] == []


def until(page: Any, condition: str) -> None:
    """Wait for a condition in the page; Playwright's own way needs eval, which the page's policy forbids."""
    deadline = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def fill(page: Any, tmp_path: Path, prompt: str = "a red car, camera circles right to left") -> None:
    (tmp_path / "first.png").write_bytes(png(96, 64))
    page.set_input_files("#first_frame", tmp_path / "first.png")
    page.fill("#prompt", prompt)


def test_upload_run_watch_and_play(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    fill(page, tmp_path)
    with worked(jobs):
        page.click("text=Make the video")
        page.wait_for_selector(".column[data-status=in_progress] progress")
        page.wait_for_selector(".column[data-status=completed] video")
    assert "2.5 px" in page.inner_text(".run table")
    page.click(".run table summary")
    assert "its weights are not at …" in page.inner_text(".run table")
    until(page, "document.querySelector('.column video').readyState >= 1")
    until(page, "document.querySelector('.strip img')?.naturalWidth > 100")
    assert page.get_attribute(".actions a", "download") == f"{next(iter(jobs.records))}.mp4"
    assert re.match(r"circle-rotate/2\s*seed \d+", page.inner_text(".column h4"))
    assert page.inner_text("#serving") == "pocket-i2v with circle-rotate/2"
    page.reload()  # what was made is still there
    page.wait_for_selector(".column[data-status=completed] video")


def test_versions_are_compared_on_one_seed(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    fill(page, tmp_path)
    page.check("#versions input[value='circle-rotate/1']")
    with worked(jobs):
        page.click("text=Make the video")
        until(page, "document.querySelectorAll('.run .column[data-status=completed] video').length === 2")
    assert page.locator(".run").count() == 1
    made = list(jobs.records.values())
    assert {job.version["version"] for job in made if job.version} == {1, 2}
    assert len({job.request["seed"] for job in made}) == 1
    assert page.locator("thead th").all_inner_texts() == ["circle-rotate/2", "circle-rotate/1"]
    assert page.locator("td.best").count() == 0  # they have the same scores
    jobs.change(made[1].id, result={**jobs.records[made[1].id].result, "results": {"subject_drift": BETTER}})
    page.reload()
    until(page, "document.querySelectorAll('.run .column[data-status=completed] video').length === 2")
    assert page.locator(".run").count() == 1  # still side by side
    assert page.locator("td.best").all_text_contents() == ["1.25 px (best)"]


def test_a_preview_is_shown_while_it_is_made(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    fill(page, tmp_path)
    page.click("text=Make the video")
    page.wait_for_selector(".column[data-status=queued] progress")
    assert page.locator(".screen:visible").count() == 0
    made = next(iter(jobs.records))
    for step in (2, 4):
        Image.new("RGB", (48, 32), "red").save(tmp_path / f"preview-{step}.jpg")
        jobs.start(made, step)
        jobs.change(made, files={"preview": f"preview-{step}.jpg"})
        page.wait_for_selector(f".caption:has-text('preview at step {step}')")
        until(page, "document.querySelector('img.preview').naturalWidth === 48")
    jobs.complete(made)
    page.wait_for_selector(".column[data-status=completed] video")
    assert page.locator("img.preview").count() == 0


def test_what_is_wrong_with_a_version_is_said_where_it_is_chosen(
    browser: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = "temporal flicker 3 over 5 videos, promoted with 1"
    known = [model.model_copy(update={"alarm": worse} if model.serving else {}) for model in MODELS]
    known[3] = known[3].model_copy(update={"note": "not taken, another serves: its files are gone"})
    monkeypatch.setattr("serving.http.catalog.Catalog.models", lambda _: known)
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#versions input")
    assert page.inner_text("#serving") == "pocket-i2v with circle-rotate/2: got worse than promoted"
    assert f"Got worse than promoted: {worse}." in page.inner_text("#versions")
    assert page.is_disabled("#versions input[value='circle-rotate/1']")
    assert "its files are gone" in page.inner_text("#versions")
    page.close()


def test_a_promotion_is_seen_without_loading_the_page_again(
    browser: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = browser.new_page()
    page.clock.install()
    page.goto(address)
    page.wait_for_selector("#versions input")
    page.check("#versions input[value='circle-rotate/1']")
    page.focus("#prompt")
    promoted = [model.model_copy(update={"serving": model.id == "circle-rotate/1"}) for model in MODELS]
    monkeypatch.setattr("serving.http.catalog.Catalog.models", lambda _: promoted)
    page.clock.run_for(31_000)
    until(page, "document.querySelector('#serving').textContent === 'pocket-i2v with circle-rotate/1'")
    checked = "[...document.querySelectorAll('#versions input:checked')].map(input => input.value).join()"
    assert page.evaluate(checked) == "circle-rotate/2,circle-rotate/1"  # what was chosen stays
    page.close()


def test_the_page_knows_which_way_a_metric_improves() -> None:
    """It may not ask: this is what the metrics themselves say."""
    from musubi_ext.evaluation.metrics import METRICS, Better
    from serving.api import UI

    script = (UI / "scores.js").read_text()
    for name, way in (("LOWER", Better.LOWER), ("HIGHER", Better.HIGHER)):
        listed = re.search(rf"export const {name} = \[(.*?)\]", script, re.DOTALL)
        assert listed is not None
        found = set(re.findall(r'"(\w+)"', listed[1]))
        assert found == {metric for metric, known in METRICS.items() if known.better is way}


def test_a_job_is_cancelled_and_then_deleted(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    fill(page, tmp_path)
    page.click("text=Make the video")
    page.click(".column >> text=Cancel")
    page.wait_for_selector(".column .state:has-text('Cancelled')")
    assert [job.state for job in jobs.records.values()] == ["cancelled"]
    page.click(".column >> text=Delete")
    page.wait_for_selector("text=None yet.")
    assert jobs.records == {}


def test_mistakes_are_said_in_words_at_their_field(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    page.click("text=Make the video")
    assert "choose a picture" in page.inner_text("#problem")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#first_frame", tmp_path / "notes.txt")
    assert "“notes.txt” is no PNG, JPEG or WebP picture" in page.inner_text("#problem")
    (tmp_path / "torn.png").write_bytes(png()[:60])
    page.set_input_files("#first_frame", tmp_path / "torn.png")
    page.fill("#prompt", "a car")
    page.click("text=Make the video")
    page.wait_for_selector("#problem:has-text('not a readable PNG')")
    page.set_input_files("#first_frame", files=[{"name": "a.png", "mimeType": "image/png", "buffer": png()}])
    page.click("text=Settings")
    page.fill("[name=size]", "60x64")
    page.click("text=Make the video")
    page.wait_for_selector("#problem:has-text('Size: 60x64 does not divide by 16')")
    assert page.evaluate("document.activeElement.name") == "size"
    assert jobs.records == {}


def test_a_failed_job_says_why(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    fill(page, tmp_path)
    page.click("text=Make the video")
    page.wait_for_selector(".column[data-status=queued]")
    jobs.fail(next(iter(jobs.records)), "the machine had no memory left")
    page.wait_for_selector(".state-failed:has-text('Failed: the machine had no memory left')")


def test_what_a_prompt_holds_is_text(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    fill(page, tmp_path, "<img src=x onerror=alert(1)><script>document.title='x'</script>")
    page.click("text=Make the video")
    page.wait_for_selector(".run h3")
    assert page.inner_text(".run h3").startswith("<img src=x")
    assert page.title() == "Video from one or two pictures"


def test_the_keyboard_alone_is_enough(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    page.set_input_files("#first_frame", files=[{"name": "a.png", "mimeType": "image/png", "buffer": png()}])
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.innerText || document.activeElement.value"
            )
        )
        if seen[-1] == "prompt":
            page.keyboard.type("a car on a road")
        if seen[-1] == "Make the video":
            page.keyboard.press("Enter")
            break
    assert [name for name in seen if name in ("first_frame", "last_frame", "prompt")] == [
        "first_frame",
        "last_frame",
        "prompt",
    ]
    page.wait_for_selector(".column[data-status=queued]")
    page.focus(".column button")
    jobs.start(next(iter(jobs.records)), 3)
    page.wait_for_selector(".column .state:has-text('step 3 of 12')")
    assert page.evaluate("document.activeElement.innerText") == "Cancel"  # an update does not take the focus away
    page.keyboard.press("Enter")
    page.wait_for_selector(".column .state:has-text('Cancelled')")


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


DARK = {"color_scheme": "dark"}


@pytest.mark.parametrize("page", [PHONE, PHONE | DARK, DARK], indirect=True, ids=["phone", "phone-dark", "dark"])
def test_nothing_sticks_out_and_everything_can_be_read(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    fill(page, tmp_path, "a very long word " + "x" * 200)
    page.click("text=Settings")
    with worked(jobs):
        page.click("text=Make the video")
        page.wait_for_selector(".strip img")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = page.evaluate("""[...document.querySelectorAll('button:not([hidden]), .choices label, summary')]
      .filter(e => e.getBoundingClientRect().height < 28).map(e => e.innerText)""")
    assert small == []
    for selector in ("body", ".faint", ".main", ".state", "th", ".column h4"):
        assert contrast(page, selector) >= 4.5, selector


def contrast(page: Any, selector: str) -> float:
    """WCAG's contrast ratio of an element's text against what lies behind it."""
    colors = page.evaluate(
        """selector => {
          const element = document.querySelector(selector);
          let behind = element;
          while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
          return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }""",
        selector,
    )
    light = sorted(_luminance(color) for color in colors)
    return (light[1] + 0.05) / (light[0] + 0.05)


def _luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_with_a_key_everything_works_too(
    browser: Any, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A <video> cannot send a key, nor can EventSource: the page fetches both."""
    monkeypatch.setattr("serving.http.catalog.Catalog.models", lambda _: MODELS)
    jobs = JobsDouble(tmp_path, keys=KeysDouble(sesame=Key("1", "team-a", SCOPES)))
    app = create_app(jobs, ServiceConfig.of({"keys": {"required": True}}), adapters=Adapters())
    context = browser.new_context()
    with served(app, free_port) as address, worked(jobs):
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("text=This service asks for an API key")
        page.fill("#key", "sesame")
        page.press("#key", "Tab")
        page.wait_for_selector("#versions input")
        fill(page, tmp_path)
        page.click("text=Make the video")
        page.wait_for_selector(".column[data-status=completed] video")
        until(page, "document.querySelector('.column video').readyState >= 1")
        assert "sesame" not in page.url
        context.close()


def test_a_service_that_went_away_is_said(page: Any, jobs: JobsDouble, tmp_path: Path) -> None:
    fill(page, tmp_path)
    page.context.set_offline(True)
    page.click("text=Make the video")
    page.wait_for_selector("#problem:has-text('does not answer')")
    page.context.set_offline(False)
    page.click("text=Make the video")
    page.wait_for_selector(".column[data-status=queued]")
