"""Values as an inline SVG histogram with a line where it matters; differences as a forest plot's row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musubi_ext.evaluation.effects import Estimate
from musubi_ext.evaluation.report.parts import number, safe
from musubi_ext.orbits.report.histogram import BASE, HEIGHT, WIDTH

BINS = 24


def histogram(
    values: Sequence[float], label: str, line: float, meaning: str, unit: str = "", noun: str = "clip"
) -> str:
    """SVG of `values` (at least one) with a dashed line at `line`, whose `meaning` stands in the accessible label.

    `unit` follows the greatest value, escaped. Bars carry their range and count as a tooltip.
    """
    low, high = min(*values, line), max(*values, line)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    counts, edges = np.histogram(values, BINS, (low, high))
    bars = "".join(
        _bar(index, int(found), int(counts.max()), float(edges[index]), float(edges[index + 1]), noun)
        for index, found in enumerate(counts)
        if found
    )
    name = f"{label}: {len(values)} {noun}s, {number(min(values))} to {number(max(values))}, {meaning} {number(line)}"
    x = min(max((line - low) / (high - low) * WIDTH, 0.75), WIDTH - 0.75)
    anchor, offset = ("end", -4) if x > 0.75 * WIDTH else ("start", 4)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{safe(name)}">{bars}'
        f'<path class="axis" d="M0 {BASE}.5H{WIDTH}"/><path class="limit" d="M{x:.1f} 2V{BASE}"/>'
        f'<text class="limit" x="{x + offset:.1f}" y="11" text-anchor="{anchor}">{safe(meaning)} {number(line)}</text>'
        f'<text x="0" y="{HEIGHT - 3}">{number(low)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{number(high)}{unit}</text></svg>'
    )


def forest(change: Estimate) -> str:
    """A difference and its interval on a line through 0, scaled to itself."""
    reach = max(abs(change.low), abs(change.high), abs(change.value)) * 1.15 or 1.0
    low, middle, high = (70 + 66 * value / reach for value in (change.low, change.value, change.high))
    label = f"{number(change.value)}, from {number(change.low)} to {number(change.high)}"
    return (
        f'<svg class="forest" viewBox="0 0 140 18" role="img" aria-label="{safe(label)}">'
        f'<path class="zero" d="M70 0V18"/><path class="span" d="M{low:.1f} 9H{high:.1f}"/>'
        f'<circle class="dot" cx="{middle:.1f}" cy="9" r="4"/></svg>'
    )


def _bar(index: int, found: int, most: int, low: float, high: float, noun: str) -> str:
    step, height = WIDTH / BINS, max(2.0, (BASE - 14) / most * found)
    box = f'x="{index * step + 0.5:.1f}" y="{BASE - height:.1f}" width="{step - 1:.1f}" height="{height:.1f}"'
    title = f"{found} {noun}{'' if found == 1 else 's'}, {number(low)} to {number(high)}"
    return f'<rect class="good" {box}><title>{title}</title></rect>'
