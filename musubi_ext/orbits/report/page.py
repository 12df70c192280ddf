"""report.html: one page that needs nothing else. A histogram per check, each rejected clip with its filmstrip and
reasons, and a table of all clips. Written as it is made, so that the filmstrips are never all in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from musubi_ext.errors import shown
from musubi_ext.orbits.checks.captions import NAMES
from musubi_ext.orbits.checks.clip import settings_key
from musubi_ext.orbits.checks.store import CheckStore, clip_key
from musubi_ext.orbits.checks.thresholds import Thresholds
from musubi_ext.orbits.checks.verdicts import (
    CHECKS,
    FIT,
    STATES,
    UNREADABLE,
    Check,
    Verdict,
    conventions_of,
    limit_of,
)
from musubi_ext.orbits.config import DatasetConfig
from musubi_ext.orbits.report.histogram import histogram
from musubi_ext.orbits.report.style import SCRIPT, STYLE
from musubi_ext.storage import atomic_path

# No script but the one below runs, and nothing is fetched, whatever a caption or a file name holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
NONE = "–"


def write_page(
    path: Path, config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict], store: CheckStore
) -> None:
    """Write the page, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(part + "\n" for part in _page(config, limits, verdicts, store))


def _page(config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict], store: CheckStore) -> Iterator[str]:
    title = f"Checked: {escape(shown(config.path))}"
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
    yield _counts(verdicts)
    yield '<h2>Checks</h2><div class="grid">'
    yield from (_check(check, config, limits, verdicts) for check in CHECKS)
    yield "</div>"
    yield from _directions(config, limits, verdicts)
    yield from _rejected(config, verdicts, store)
    yield '<h2>All clips</h2><p class="faint">Sort by a click on a column.</p><div class="scroll"><table id="clips">'
    yield _head()
    yield from map(_row, verdicts)
    yield f"</tbody></table></div><script>{SCRIPT}</script></body></html>"


def _counts(verdicts: Sequence[Verdict]) -> str:
    found = [verdict.state for verdict in verdicts]
    parts = [f'<div class="{state}"><b>{found.count(state)}</b>{state}</div>' for state in STATES]
    return f'<div class="counts">{"".join(parts)}</div>'


def _check(check: Check, config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict]) -> str:
    values = [value for verdict in verdicts if (value := verdict.values.get(check.name)) is not None]
    wanted = {limit_of(check, limits, config.datasets[verdict.listed.dataset]) for verdict in verdicts}
    limit = wanted.pop() if len(wanted) == 1 else None  # data sets that ask for different lengths share no line
    failing = sum(reason.check == check.name for verdict in verdicts for reason in verdict.reasons)
    missing = sum(verdict.state != UNREADABLE for verdict in verdicts) - len(values)
    notes = [f"{failing} rejected" if failing else "", f"{missing} not measured" if missing else ""]
    note = ", ".join(filter(None, notes)) or "none rejected"
    body = histogram(check, values, limit) if values else '<p class="faint">no values</p>'
    return f'<div class="card"><h3>{escape(check.title)}</h3><p class="faint">{note}</p>{body}</div>'


def _directions(config: DatasetConfig, limits: Thresholds, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What the captions of each data set mean by a direction."""
    yield '<h2>What “right to left” means in the captions</h2><ul class="card directions">'
    for convention, dataset in zip(conventions_of(config, limits, verdicts), config.datasets, strict=True):
        place = shown(dataset.video_directory or dataset.video_jsonl_file or "")
        yield f"<li>{escape(place)}: {escape(convention.sentence())}</li>"
    yield "</ul>"


def _rejected(config: DatasetConfig, verdicts: Sequence[Verdict], store: CheckStore) -> Iterator[str]:
    rejected = [verdict for verdict in verdicts if verdict.state != FIT]
    yield f"<h2>Rejected clips ({len(rejected)})</h2>"
    if not rejected:
        yield '<p class="faint">None.</p>'
    yield '<div class="grid clips">'
    for verdict in rejected:
        key = clip_key(verdict.sha256, settings_key(config.datasets[verdict.listed.dataset]))
        yield _clip(verdict, store.strip(key) if verdict.sha256 else "")
    yield "</div>"


def _clip(verdict: Verdict, strip: str) -> str:
    image = f'<img alt="six frames of the clip" src="data:image/jpeg;base64,{strip}">' if strip else ""
    reasons = "".join(f"<li>{escape(reason.text)}</li>" for reason in verdict.reasons)
    caption = f'<p class="faint">{escape(shown(verdict.listed.caption))}</p>' if verdict.listed.caption else ""
    name = f'{escape(shown(verdict.listed.path))} <span class="{verdict.state}">{verdict.state}</span>'
    return f'<div class="card clip"><h3>{name}</h3>{image}<ul>{reasons}</ul>{caption}</div>'


def _head() -> str:
    titles = ["clip", "state", *(f"{check.title}{check.unit_suffix}" for check in CHECKS), "camera's way", "confidence"]
    cells = "".join(f"<th><button>{escape(title)}</button></th>" for title in titles)
    return f"<thead><tr>{cells}</tr></thead><tbody>"


def _row(verdict: Verdict) -> str:
    direction = NAMES.get(verdict.measured.direction, "")
    path, failing = shown(verdict.listed.path), {reason.check for reason in verdict.reasons}
    cells = [
        f'<td data-t="1" data-v="{escape(path)}" title="{escape(path)}">{escape(shown(verdict.listed.path.name))}</td>',
        f'<td data-t="1" data-v="{verdict.state}" class="{verdict.state}">{verdict.state}</td>',
        *(_cell(verdict.values.get(check.name), check.name in failing) for check in CHECKS),
        f'<td data-t="1" data-v="{direction}">{direction or NONE}</td>',
        _cell(verdict.values.get("confidence"), False),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: float | None, failing: bool) -> str:
    if value is None:
        return f'<td data-v="">{NONE}</td>'
    kind = ' class="over"' if failing else ""
    return f'<td data-v="{value!r}"{kind}>{value:.4g}</td>'
