"""One check's values over a data set as an inline SVG histogram, the rejected side of its limit in another colour."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from musubi_ext.orbits.checks.thresholds import Limit
from musubi_ext.orbits.checks.verdicts import Check

WIDTH, HEIGHT, BASE = 320, 110, 92  # of the drawing, and where its bars stand
BINS = 24
Floats = NDArray[np.float64]


def histogram(check: Check, values: Sequence[float], limit: Limit) -> str:
    """SVG of `values` (at least one) with a line at `limit`; bars carry their range and count as a tooltip."""
    low, high = _range(values, limit)
    bad = [value for value in values if limit is not None and check.fails(value, limit)]
    counts, edges = np.histogram(values, BINS, (low, high))
    failing, _ = np.histogram(bad, BINS, (low, high))
    bars = [
        _bar(index, *pair, int(counts.max()), edges) for index, pair in enumerate(zip(counts, failing, strict=True))
    ]
    line = "" if limit is None else _line((limit - low) / (high - low), limit)
    label = f"{check.title}: {len(values)} clips, {min(values):.4g} to {max(values):.4g}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(bars)}'
        f'<path class="axis" d="M0 {BASE}.5H{WIDTH}"/>{line}'
        f'<text x="0" y="{HEIGHT - 3}">{low:.4g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{high:.4g}{escape(check.unit_suffix)}</text></svg>'
    )


def _range(values: Sequence[float], limit: Limit) -> tuple[float, float]:
    """From the least to the greatest of the values and the limit, never empty."""
    shown = [*values, *([] if limit is None else [limit])]
    low, high = min(shown), max(shown)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _bar(index: int, count: int, failing: int, most: int, edges: Floats) -> str:
    """The rejected clips of one bin, and the others on top of them."""
    step, scale, top, parts = WIDTH / BINS, (BASE - 14) / most, float(BASE), []
    for kind, clips in (("bad", failing), ("good", count - failing)):
        if clips:
            height = max(2.0, scale * clips)
            top -= height
            title = f"{clips} clip{'' if clips == 1 else 's'}, {edges[index]:.4g} to {edges[index + 1]:.4g}"
            box = f'x="{index * step + 0.5:.1f}" y="{top:.1f}" width="{step - 1:.1f}" height="{height:.1f}"'
            parts.append(f'<rect class="{kind}" {box}><title>{title}</title></rect>')
    return "".join(parts)


def _line(share: float, limit: float) -> str:
    x = min(max(share * WIDTH, 0.75), WIDTH - 0.75)
    anchor = "end" if share > 0.75 else "start"
    offset = -4 if anchor == "end" else 4
    return (
        f'<path class="limit" d="M{x:.1f} 2V{BASE}"/>'
        f'<text class="limit" x="{x + offset:.1f}" y="11" text-anchor="{anchor}">{limit:g}</text>'
    )
