"""docs/SERVING.md, DEPLOYMENT.md and SECURITY.md say what the code says: keys, fields, routes, names, limits, tests."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from jobs_double import Adapters, JobsDouble
from pydantic import BaseModel

from serving.api import create_app
from serving.config import ServiceConfig
from serving.http.http_errors import _CODES
from serving.http.metrics_prometheus import render
from serving.http.submission import FIELDS
from serving.keys import SCOPES
from serving.making.fields import FILES
from serving.making.levers import Levers
from serving.making.measures import CHEAP, LEARNED
from serving.queue.transitions import MESSAGES

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("SERVING.md", "DEPLOYMENT.md", "SECURITY.md")
NAME = re.compile(r"`([^`]+)`")


def table(name: str, page: str = "SERVING.md") -> list[list[str]]:
    """The rows between <!-- NAME:start --> and its end, each its cells; without the header."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    block = text.partition(f"<!-- {name}:start -->\n")[2].partition(f"<!-- {name}:end -->")[0]
    rows = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in block.splitlines()]
    assert len(rows) > 2, name
    return rows[2:]


def names(name: str, column: int = 0, page: str = "SERVING.md") -> list[str]:
    """What stands in `code` in a column of a table."""
    return [found for row in table(name, page) for found in NAME.findall(row[column])]


def defaults() -> Iterator[tuple[str, Any]]:
    """Every key of the configuration with its default."""
    for name, field in ServiceConfig.model_fields.items():
        if isinstance(field.default, BaseModel):
            for key in type(field.default).model_fields:
                yield f"{name}.{key}", getattr(field.default, key)
        else:
            yield name, field.default


def test_the_configuration() -> None:
    stated = {NAME.findall(row[0])[0]: row[1] for row in table("configuration")}
    expected = {
        name: "not given" if value is None else f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"
        for name, value in defaults()
    }
    assert stated == expected
    assert list(stated) == list(expected)


def test_the_fields() -> None:
    found = names("fields")
    assert sorted({*FIELDS, *FILES}) == sorted(name for name in found if name in {*FIELDS, *FILES})
    for row in table("fields"):
        assert set(NAME.findall(row[0])) <= {*FIELDS, *FILES}, row


def document() -> dict[str, Any]:
    jobs: Any = JobsDouble(Path())
    made: dict[str, Any] = create_app(jobs, ServiceConfig.of({}), adapters=Adapters()).openapi()
    return made


def test_the_routes() -> None:
    expected = {f"{method.upper()} {path}" for path, of in document()["paths"].items() for method in of}
    assert set(names("routes")) == expected


def test_the_error_codes() -> None:
    used = {*_CODES.values(), *MESSAGES}
    for path in (ROOT / "serving").rglob("*.py"):
        used |= set(re.findall(r'\bcode ?= ?"([a-z_]+)"', path.read_text()))
    assert set(names("codes", 1)) == used - {"error"}
    for row in table("codes")[:-1]:
        for status in re.findall(r"\d{3}", row[0]):
            assert _CODES.get(int(status)) in {*NAME.findall(row[1]), None}, row


def test_the_scores() -> None:
    assert set(names("scores")) == {*CHEAP, *LEARNED}


def test_the_metrics(tmp_path: Path) -> None:
    stats = JobsDouble(tmp_path).stats()
    text = render(stats, [], Adapters().state())
    assert names("metrics") == re.findall(r"^# HELP (\S+)", text, re.MULTILINE)


def test_the_levers() -> None:
    values = {NAME.findall(row[0])[0]: row[1] for row in table("levers")}
    tuning = re.compile(r"offload_stream|first_block_|taylorseer_|magcache_|compile_backend|distillation_steps")
    assert set(values) == {name for name in Levers.model_fields if not tuning.match(name)}
    for name, stated in values.items():
        choices = set(get_args(Levers.model_fields[name].annotation)) - {"none"}
        if choices and all(isinstance(choice, str) for choice in choices):
            assert set(stated.split(", ")) == choices, name
    for row in table("levers"):
        assert "pocket" in row[2] or "unmeasured" in row[2], row


def test_the_scopes() -> None:
    assert names("scopes") == [*SCOPES]


def test_the_configurations_on_the_pages_are_valid() -> None:
    for page in PAGES:
        for block in re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S):
            values = tomllib.loads(block)
            ServiceConfig.of({name: value for name, value in values.items() if name != "base"})


def test_the_check_list_names_tests_that_exist() -> None:
    written = {
        name
        for path in (ROOT / "tests" / "serving").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    listed = set(names("checklist", 2, "SECURITY.md"))
    assert listed <= written
    assert len(listed) >= 35
    weaknesses = {found for row in table("checklist", "SECURITY.md") for found in re.findall(r"CVE-\d+-\d+", row[0])}
    cited = {
        found
        for path in (ROOT / "tests" / "serving").glob("test_security_*.py")
        for found in re.findall(r"CVE-\d+-\d+", path.read_text())
    }
    assert weaknesses == cited


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_are_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
    for path in re.findall(r"serving/deploy/[\w.]+", text):
        assert (ROOT / path).exists(), path
    for key in re.findall(
        r"`((?:limits|keys|jobs|adapters|evaluation|retention|webhooks|levers|cache|previews)\.\w+)`", text
    ):
        assert key in dict(defaults()) or key == "jobs.sqlite", key
    for metric in re.findall(r"musubi_ext_\w+", text):
        assert metric in names("metrics"), metric
