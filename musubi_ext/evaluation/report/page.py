"""The report of an evaluation: what each metric found, the worst and the best clips side by side, and every number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.evaluation.effects import centre_of, estimate
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.motion_floor import still
from musubi_ext.evaluation.report.cards import Cards
from musubi_ext.evaluation.report.distribution import histogram
from musubi_ext.evaluation.report.extremes import Clips, Extremes, extremes, values_of
from musubi_ext.evaluation.report.parts import (
    better_of,
    cell,
    count,
    foot,
    head,
    nowhere,
    number,
    numbers,
    safe,
    table,
    text_cell,
    title_of,
    unit_of,
    way,
)
from musubi_ext.evaluation.result import READ, SCHEMA, Result
from musubi_ext.storage import atomic_path

FEW = 8  # clips: so many are all shown
MOST = 24  # clips with pictures
_REASONS = 3


def write_report(
    results: Mapping[str, Any],
    videos: Mapping[str, Path],
    html: Path | str,
    *,
    truths: Mapping[str, Path] | None = None,
    title: str = "Evaluation",
) -> None:
    """Write one page that needs nothing else, whole or not at all; under 20 MB for thousands of clips.

    `results`: a results document (`results_document`), or results by clip and metric. `videos`: files by clip, for the
    pictures of the worst and the best (of all where there are few); `truths`: npz by clip, where masks need them.
    Raises UserError for results of another schema or layout, or without a clip.
    """
    clips = _clips(results)
    settings = results.get("settings", {}) if _is_document(results) else {}
    if not clips:
        raise UserError("report: the results hold no clip")
    with atomic_path(Path(html)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(part + "\n" for part in _page(clips, dict(settings), videos, truths or {}, safe(title)))


def _is_document(results: Mapping[str, Any]) -> bool:
    return isinstance(results.get("schema"), str)  # under a clip of this name there would be its results


def _clips(results: Mapping[str, Any]) -> Clips:
    """Results from either form."""
    if not _is_document(results):
        return results
    found = (results["schema"], results.get("version"))
    if found not in [(SCHEMA, version) for version in READ]:
        raise UserError(f"report: expected {SCHEMA} of version {' or '.join(map(str, READ))}, found {found}")
    try:
        clips = results["clips"].items()
        return {clip: {name: Result(**fields) for name, fields in of.items()} for clip, of in clips}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"report: a result is malformed: {error}") from error


def _page(
    clips: Clips, settings: dict[str, Any], videos: Mapping[str, Path], truths: Mapping[str, Path], title: str
) -> Iterator[str]:
    named = metrics_of(clips)
    metrics = [name for name in named if values_of(clips, name)]
    cards = Cards(videos, {name: provider_of(of) for name, of in clips.items()}, truths)
    frozen = {name: reason for name, of in clips.items() if (reason := still(of))}
    yield head(title)
    yield _counts(clips, named, frozen)
    if settings:
        yield numbers([(name, safe(value)) for name, value in settings.items()])
    yield '<h2>Metrics</h2><div class="grid">'
    yield from (_metric(name, clips) for name in metrics)
    yield "</div>"
    if len(metrics) < len(named):
        yield nowhere({name: _why_nowhere(name, clips) for name in named if name not in metrics}, "every clip")
    yield from _ends(clips, metrics, cards, frozen)
    yield from _others(clips, cards, frozen)
    yield "<h2>All clips</h2>"
    yield '<p class="faint">Sort by a click on a column. ↑ higher is better, ↓ lower is better.</p>'
    titles = [("clip", ""), *((title_of(name, _unit(clips, name)), "") for name in metrics), ("note", "text")]
    yield from table("table", "All clips", titles, (_row(name, clips, metrics, cards, frozen) for name in clips))
    yield foot()


def metrics_of(clips: Clips) -> list[str]:
    """Metrics of any clip: the registry's order, then the unknown ones."""
    there = {name for of in clips.values() for name in of}
    return [name for name in METRICS if name in there] + sorted(there - METRICS.keys())


def provider_of(results: Mapping[str, Result]) -> str:
    """Who found the subject of a clip; "" where no metric says."""
    return next((provider for result in results.values() if (provider := getattr(result, "masks", ""))), "")


def _unit(clips: Clips, metric: str) -> str:
    return next(of[metric].unit for of in clips.values() if metric in of)


def _counts(clips: Clips, metrics: list[str], frozen: Mapping[str, str]) -> str:
    missing = sum(result.value is None for of in clips.values() for result in of.values())
    whole = [name for name in metrics if not values_of(clips, name)]
    parts = [count(len(clips), "clip" if len(clips) == 1 else "clips"), count(len(metrics), "metrics")]
    parts.append(count(missing, "values unavailable", "unfit" if missing else ""))
    if whole:
        parts.append(count(len(whole), "metrics nowhere available", "unfit"))
    if frozen:
        parts.append(count(len(frozen), "clips stand still", "unfit"))
    return f'<div class="counts">{"".join(parts)}</div>'


def _metric(name: str, clips: Clips) -> str:
    unit, values = _unit(clips, name), list(values_of(clips, name).values())
    middle = estimate(values, centre_of(unit))
    interval = f"{number(middle.value)} [{number(middle.low)}, {number(middle.high)}]{unit_of(unit)}"
    lines = [f'<p class="faint">{safe(way(better_of(name)))}</p>']
    lines.append(numbers([(middle.centre, interval), ("clips", str(len(values)))]))
    lines.append(histogram(values, name, middle.value, middle.centre, unit_of(unit)))
    lines += [*_reasons(name, clips), _origin(name, clips)]
    return f'<div class="card metric"><h3>{safe(name)}</h3>{"".join(lines)}</div>'


def _reasons(name: str, clips: Clips) -> list[str]:
    """Why values are missing, the commonest reasons first."""
    found = [of[name].unavailable if name in of else "not measured" for of in clips.values()]
    reasons = Counter(reason for reason in found if reason is not None)
    if not reasons:
        return []
    lines = "".join(f"<li>{safe(why, 300)} ({many})</li>" for why, many in reasons.most_common(_REASONS))
    more = f"<li>and {len(reasons) - _REASONS} other reasons</li>" if len(reasons) > _REASONS else ""
    total = f'<p class="unfit">unavailable in {reasons.total()} of {len(clips)} clips</p>'
    return [f'{total}<ul class="plain faint">{lines}{more}</ul>']


def _why_nowhere(name: str, clips: Clips) -> str:
    reasons = Counter(str(of[name].unavailable) if name in of else "not measured" for of in clips.values())
    return reasons.most_common(1)[0][0]


def _origin(name: str, clips: Clips) -> str:
    """Where a metric is from, what measured it, whose masks it used and under which licence."""
    of = [results[name] for results in clips.values() if name in results]
    facts = [METRICS[name].source if name in METRICS else "not a metric of this version"]
    facts.append(", ".join(sorted({result.backend for result in of})))
    for key, before in (("masks", "masks by "), ("licence", "licence ")):
        if found := sorted({value for result in of if (value := getattr(result, key, ""))}):
            facts.append(before + ", ".join(found))
    return f'<p class="faint">{safe("; ".join(filter(None, facts)), 300)}</p>'


def _ends(clips: Clips, metrics: list[str], cards: Cards, frozen: Mapping[str, str]) -> Iterator[str]:
    """Worst and best of each metric side by side; open while clips with pictures are few."""
    ends = [found for name in metrics if (found := extremes(clips, name)) is not None]
    if not ends:
        return
    yield "<h2>Worst and best</h2>"
    yield '<p class="faint">A clip that stands still is never the best: stillness wins drift and fidelity.</p>'
    for index, of in enumerate(ends):
        unit, values = _unit(clips, of.metric), values_of(clips, of.metric)
        summary = f"{safe(of.metric)}: worst {number(values[of.worst])}{unit_of(unit)}"
        if of.best is not None:
            summary += f", best {number(values[of.best])}{unit_of(unit)}"
        yield f"<details{' open' if index < 3 else ''}><summary>{summary}</summary>"
        yield _passed_over(of, frozen)
        yield '<div class="pair">'
        for kind, name in (("worst", of.worst), ("best", of.best)):
            if name is None:
                continue
            chip = f'<span class="chip {kind}">{kind} {number(values[name])}{unit_of(unit)}</span>'
            if name in cards.ids or len(cards.ids) < MOST:
                yield cards.card(name, chip + _still_chip(name, frozen))
            else:
                note = '<p class="faint">without pictures, to keep the page small</p>'
                yield f'<article class="card shown"><h4>{chip}{safe(name)}</h4>{note}</article>'
        yield "</div></details>"


def _passed_over(of: Extremes, frozen: Mapping[str, str]) -> str:
    if not of.passed_over:
        return ""
    name, more = of.passed_over[0], len(of.passed_over) - 1
    others = f" and {more} more" if more else ""
    return f'<p class="faint">Not counted as best: {safe(name)}{others} ({safe(frozen[name])})</p>'


def _still_chip(name: str, frozen: Mapping[str, str]) -> str:
    return '<span class="chip still">stands still</span>' if name in frozen else ""


def _others(clips: Clips, cards: Cards, frozen: Mapping[str, str]) -> Iterator[str]:
    rest = [name for name in clips if name not in cards.ids]
    if not rest or len(clips) > FEW:
        return
    yield "<h2>Other clips</h2>" if cards.ids else "<h2>Clips</h2>"
    yield '<div class="pair">'
    yield from (cards.card(name, _still_chip(name, frozen)) for name in rest)
    yield "</div>"


def _row(name: str, clips: Clips, metrics: list[str], cards: Cards, frozen: Mapping[str, str]) -> str:
    of, anchor = clips[name], cards.ids.get(name)
    link = f'<a href="#{anchor}">{safe(name)}</a>' if anchor else ""
    cells = [text_cell(name, "", link)]
    for metric in metrics:
        result = of.get(metric)
        cells.append(cell(None, "not measured") if result is None else cell(result.value, result.unavailable or ""))
    cells.append(text_cell(frozen.get(name, ""), "text"))
    return f"<tr>{''.join(cells)}</tr>"
