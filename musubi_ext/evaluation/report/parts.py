"""Pieces of HTML that both pages are made of. Every text from outside goes through `safe`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from musubi_ext.errors import shown
from musubi_ext.evaluation.metrics import METRICS, Better
from musubi_ext.evaluation.report.style import POLICY, SCRIPT, STYLE

NONE = "–"
_LONGEST = 160  # characters of a name or reason
_WAYS = {Better.HIGHER: "higher is better", Better.LOWER: "lower is better", Better.REPORT: "neither way is better"}
_ARROWS = {Better.HIGHER: " ↑", Better.LOWER: " ↓", Better.REPORT: ""}


def safe(text: object, longest: int = _LONGEST) -> str:
    """Text for a page: on one line, unprintable characters spelled out, cut when long, HTML escaped."""
    line = shown(str(text))
    return escape(line if len(line) <= longest else line[: longest - 1] + "…")


def head(title: str) -> str:
    """Everything up to the page's first heading, which is the title (already safe)."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>"
        f'<a class="skip" href="#table">Skip to the table</a><h1>{title}</h1>'
    )


def foot() -> str:
    """The end of a page, with the one script."""
    return f'<p id="said" class="skip" role="status"></p><script>{SCRIPT}</script></body></html>'


def count(number: object, what: str, kind: str = "") -> str:
    """One large figure of the page's head."""
    return f'<div class="{kind}"><b>{safe(number)}</b>{safe(what)}</div>'


def better_of(metric: str) -> Better:
    """A metric's better direction; a metric that this version does not know has none."""
    return METRICS[metric].better if metric in METRICS else Better.REPORT


def way(better: Better) -> str:
    """The direction in words."""
    return _WAYS[better]


def title_of(metric: str, unit: str) -> str:
    """Name, arrow and unit of a column, escaped."""
    return safe(metric) + _ARROWS[better_of(metric)] + unit_of(unit, before=", ")


def unit_of(unit: str, before: str = " ") -> str:
    """A unit to follow a number, escaped; nothing for shares and counts."""
    return "" if unit in ("", "1", "0/1") else before + safe(unit)


def number(value: float | None, form: str = ".4g") -> str:
    """A number as a reader wants it."""
    return NONE if value is None else f"{value:{form}}".replace("-", "−")


def cell(value: float | None, why: str = "", kind: str = "") -> str:
    """A table cell with a number, sorted by its full value; the reason as a tooltip where there is none."""
    if value is None:
        return f'<td data-v="" title="{safe(why)}">{NONE}</td>'
    return f'<td data-v="{value:.7g}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{number(value)}</td>'


def text_cell(text: object, kind: str = "", inner: str = "") -> str:
    """A table cell with text, sorted by it; `inner` replaces what is shown."""
    shown_as = safe(text)
    return f'<td data-t="1" data-v="{shown_as}" class="{kind}" title="{shown_as}">{inner or shown_as}</td>'


def table(name: str, label: str, titles: Iterable[tuple[str, str]], rows: Iterable[str]) -> Iterable[str]:
    """A sortable table, row by row; `titles` are (heading, class), already safe."""
    cells = "".join(
        f'<th scope="col"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}><button type="button">{heading}'
        "</button></th>"
        for heading, kind in titles
    )
    yield (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{safe(label)}"><table id="{name}" '
        f'class="sortable"><thead><tr>{cells}</tr></thead><tbody>'
    )
    yield from rows
    yield "</tbody></table></div>"


def nowhere(reasons: Mapping[str, str], what: str) -> str:
    """Metrics that have no value at all, by reason; `what` says in what."""
    by: dict[str, list[str]] = {}
    for metric, why in reasons.items():
        by.setdefault(why, []).append(metric)
    lines = "".join(f"<li><b>{safe(', '.join(of), 600)}</b>: {safe(why, 600)}</li>" for why, of in by.items())
    many = f"{len(reasons)} metric{'' if len(reasons) == 1 else 's'} unavailable in {what}"
    return f'<details><summary class="unfit">{safe(many)}</summary><ul class="plain faint">{lines}</ul></details>'


def numbers(pairs: Sequence[tuple[str, str]]) -> str:
    """Names with their values in a row that wraps; values already safe."""
    return f'<dl class="numbers">{"".join(f"<div><dt>{safe(k)}</dt><dd>{v}</dd></div>" for k, v in pairs)}</dl>'
