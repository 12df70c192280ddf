"""Two models side by side: the gate's answer, every metric's paired difference, the scenes that changed most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from musubi_ext.evaluation.compare import READINGS, Comparison, MetricComparison
from musubi_ext.evaluation.metrics import Better
from musubi_ext.evaluation.report.cards import BUDGET, Cards
from musubi_ext.evaluation.report.distribution import forest, histogram
from musubi_ext.evaluation.report.extremes import Clips
from musubi_ext.evaluation.report.page import provider_of
from musubi_ext.evaluation.report.parts import (
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
from musubi_ext.evaluation.verdict import Verdict
from musubi_ext.storage import atomic_path

SHOWN = 4  # metrics with videos of the scenes that changed most


def write_compare_report(
    comparison: Comparison,
    html: Path | str,
    *,
    verdict: Verdict | None = None,
    base_videos: Mapping[str, Path] | None = None,
    pair_videos: Mapping[str, Path] | None = None,
) -> None:
    """Write one page that needs nothing else, whole or not at all. Videos are files by clip name, as in the results."""
    with atomic_path(Path(html)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(part + "\n" for part in _page(comparison, verdict, base_videos or {}, pair_videos or {}))


def _page(
    comparison: Comparison, verdict: Verdict | None, base_videos: Mapping[str, Path], pair_videos: Mapping[str, Path]
) -> Iterator[str]:
    yield head(f"{safe(comparison.pair.name)} against {safe(comparison.base.name)}")
    yield _counts(comparison, verdict)
    if verdict is not None:
        yield _gate(verdict)
    yield "<h2>Metrics</h2>"
    yield (
        '<p class="faint">Medians over scenes (means of yes-or-no metrics). The difference is pair − base, scene by '
        "scene, with a 95% bootstrap interval; d<sub>z</sub> is Cohen’s d of paired differences, r the rank-biserial "
        "correlation; p is the sign test’s, adjusted for all metrics (Holm).</p>"
    )
    titles = [("metric", ""), ("base", ""), ("pair", ""), ("pair − base", ""), ("95% interval", "text")]
    titles += [
        ("around 0", ""),
        ("reading", "text"),
        ("d<sub>z</sub>", ""),
        ("r", ""),
        ("rose", ""),
        ("fell", ""),
        ("equal", ""),
        ("p", ""),
    ]
    titles += [("scenes", "")]
    metrics = [metric for metric in comparison.metrics if metric.differences]
    lacking = {m.name: next(iter(m.lacking.values()), "") for m in comparison.metrics if not m.differences}
    yield from table("table", "Metrics", titles, map(_metric_row, metrics))
    if lacking:
        yield nowhere(lacking, "every scene")
    yield '<h2>Differences</h2><div class="grid">'
    yield from map(_metric_card, metrics)
    yield "</div>"
    if base_videos or pair_videos:
        yield from _scenes(comparison, base_videos, pair_videos)
    yield '<h2>All scenes</h2><p class="faint">pair − base. Sort by a click on a column.</p>'
    named = [("scene", ""), *((title_of(metric.name, metric.unit), "") for metric in metrics)]
    yield from table("scenes", "All scenes", named, (_row(scene, metrics) for scene in comparison.pairing.base))
    yield _inputs(comparison, verdict)
    yield foot()


def _counts(comparison: Comparison, verdict: Verdict | None) -> str:
    found = [metric.reading for metric in comparison.metrics]
    parts = []
    if verdict is not None:
        passed = verdict.decision.passed
        parts.append(count("passed" if passed else "refused", "the gate’s answer", "fit" if passed else "unfit"))
    parts.append(count(len(comparison.pairing.base), "scenes"))
    for reading, kind in (
        ("pair", "fit"),
        ("base", "unfit"),
        ("none", ""),
        ("still", "unfit"),
        ("unavailable", "unfit"),
    ):
        if many := found.count(reading):
            parts.append(count(many, f"metrics: {READINGS[reading]}", kind))
    warning = ""
    if comparison.moves is False:
        warning = '<p class="unfit">The pair hardly moves: what it wins by standing still is not credited.</p>'
    return f'<div class="counts">{"".join(parts)}</div>{warning}'


def _gate(verdict: Verdict) -> str:
    lines = "".join(
        f'<li><b class="{"fit" if check.passed else "unfit"}">{"passed" if check.passed else "failed"}</b>'
        f"{safe(check.message, 600)}</li>"
        for check in verdict.decision.checks
    )
    return f'<h2>Gate</h2><ul class="checks card">{lines}</ul>'


def _metric_row(metric: MetricComparison) -> str:
    change, signs = metric.difference, metric.signs
    assert change is not None
    assert signs is not None
    cells = [text_cell(metric.name, "", title_of(metric.name, metric.unit)), cell(metric.base), cell(metric.pair)]
    interval = f"[{number(change.low)}, {number(change.high)}]"
    cells += [cell(change.value), f'<td class="text" data-v="{change.low:.7g}">{interval}</td>']
    cells += [
        f'<td data-v="{change.value:.7g}">{forest(change)}</td>',
        text_cell(READINGS[metric.reading], "text reading"),
    ]
    cells += [_short(metric.d_z), _short(metric.rank_biserial), *map(_whole, (signs.rose, signs.fell, signs.equal))]
    cells += [f'<td data-v="{metric.p_holm:.7g}" title="alone {signs.p:.3g}">{metric.p_holm:.2g}</td>']
    cells.append(_whole(len(metric.differences)))
    return f'<tr class="{metric.reading}">{"".join(cells)}</tr>'


def _short(value: float | None) -> str:
    return (
        cell(None, "all differences are equal")
        if value is None
        else f'<td data-v="{value:.7g}">{number(value, "+.2f")}</td>'
    )


def _whole(value: int) -> str:
    return f'<td data-v="{value}">{value}</td>'


def _metric_card(metric: MetricComparison) -> str:
    reading = "" if metric.reading == "report" else f"; {READINGS[metric.reading]}"
    lines = [f'<p class="faint">{safe(way(metric.better) + reading)}</p>']
    if metric.lacking:
        many = len(metric.lacking) + len(metric.differences)
        why = safe(next(iter(metric.lacking.values())), 300)
        lines.append(f'<p class="unfit">left out {len(metric.lacking)} of {many} scenes</p><p class="faint">{why}</p>')
    if metric.differences:
        values = list(metric.differences.values())
        unit = unit_of(metric.unit)
        assert metric.difference is not None
        change = metric.difference
        shown = f"{number(change.value, '+.4g')} [{number(change.low)}, {number(change.high)}]{unit}"
        lines.append(numbers([(change.centre, shown)]))
        lines.append(histogram(values, f"{metric.name}, pair − base", 0.0, "equal at", unit, "scene"))
    return f'<div class="card metric"><h3>{safe(metric.name)}</h3>{"".join(lines)}</div>'


def _scenes(comparison: Comparison, base_videos: Mapping[str, Path], pair_videos: Mapping[str, Path]) -> Iterator[str]:
    """For the first metrics with a better way: where the pair gained most and where it lost most, both videos."""
    base = Cards(base_videos, _providers(comparison.base.clips), prefix="base", budget=BUDGET // 2)
    pair = Cards(pair_videos, _providers(comparison.pair.clips), prefix="pair", budget=BUDGET // 2)
    yield "<h2>Scenes that changed most</h2>"
    shown = [m for m in comparison.metrics if m.better is not Better.REPORT and len(set(m.differences.values())) > 1]
    for index, metric in enumerate(shown[:SHOWN]):
        sign = 1 if metric.better is Better.HIGHER else -1
        order = sorted(metric.differences, key=lambda scene: (sign * metric.differences[scene], scene))
        yield f"<details{' open' if index < 2 else ''}><summary>{safe(metric.name)}</summary>"
        for kind, label, scene in (("best", "gained most", order[-1]), ("worst", "lost most", order[0])):
            if sign * metric.differences[scene] * (1 if kind == "best" else -1) <= 0:
                continue  # nothing gained, or nothing lost
            change = f"{number(metric.differences[scene], '+.4g')}{unit_of(metric.unit)}"
            yield f'<p><span class="chip {kind}">{label}: {change}</span> {safe(scene)}</p><div class="pair">'
            yield base.card(comparison.pairing.base[scene], '<span class="chip">base</span>')
            yield pair.card(comparison.pairing.pair[scene], '<span class="chip">pair</span>') + "</div>"
        yield "</details>"


def _providers(clips: Clips) -> dict[str, str]:
    return {name: provider_of(of) for name, of in clips.items()}


def _row(scene: str, metrics: Sequence[MetricComparison]) -> str:
    cells = [text_cell(scene)]
    cells += [cell(metric.differences.get(scene), metric.lacking.get(scene, "")) for metric in metrics]
    return f"<tr>{''.join(cells)}</tr>"


def _inputs(comparison: Comparison, verdict: Verdict | None) -> str:
    files = [("base", comparison.base.record()), ("pair", comparison.pair.record())]
    if verdict is not None and verdict.gate is not None:
        files.append(("gate", {"name": verdict.gate.name, "sha256": str(verdict.gate_sha256)}))
    lines = "".join(f"<li>{role}: {safe(of['name'])}, SHA-256 {safe(of['sha256'])}</li>" for role, of in files)
    return f'<h2>Made from</h2><ul class="plain faint">{lines}</ul>'
