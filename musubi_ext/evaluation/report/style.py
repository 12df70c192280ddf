"""The look and the script of both pages: the data report's, and what clips, videos and pairs need beside."""

from __future__ import annotations

import base64
import hashlib

from musubi_ext.orbits.report.style import STYLE as DATA_STYLE

STYLE = (
    DATA_STYLE
    + """
a { color: var(--good); } a:focus-visible, summary:focus-visible, .strip:focus-visible, .scroll:focus-visible,
video:focus-visible { outline: 2px solid var(--good); outline-offset: 2px; }
.skip { position: absolute; left: -999rem; } .skip:focus { position: static; }
.counts .fit b, .counts .unfit b { color: inherit; }
.metric svg { margin: .4rem 0; }
div.pair { display: grid; gap: .8rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.shown { content-visibility: visible; } .shown h4 { margin: 0 0 .5rem; font-size: .95rem; overflow-wrap: anywhere; }
.chip { display: inline-block; padding: 0 .5em; margin-right: .4em; border: 1px solid currentColor; border-radius: 1em;
  font-size: .8rem; font-weight: 600; color: var(--faint); }
.chip.best { color: var(--fit); } .chip.worst, .chip.still { color: var(--bad); }
.media { display: grid; gap: .8rem; grid-template-columns: minmax(6rem, auto) minmax(0, 1fr); align-items: start; }
.media video { display: block; height: auto; max-width: 100%; max-height: 20rem; border-radius: 4px; background: #000; }
.media.wide { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0 0 .5rem; } figcaption { color: var(--faint); font-size: .8rem; overflow-wrap: anywhere; }
.strip { overflow-x: auto; border-radius: 4px; } 
.strip img { display: block; width: 100%; min-width: 20rem; height: auto; }
.thumb { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.wheel { display: inline-block; width: 1.1em; height: 1.1em; border-radius: 50%; vertical-align: -.2em;
  background: conic-gradient(from 90deg, #f00, #ff0, #0f0, #0ff, #00f, #f0f, #f00); }
dl.numbers { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .4rem 0; font-variant-numeric: tabular-nums; }
dl.numbers div { display: flex; gap: .4rem; } dl.numbers dt { color: var(--faint); } dl.numbers dd { margin: 0; }
summary { cursor: pointer; font-weight: 600; } details { margin: .8rem 0; } details > div.pair { margin-top: .6rem; }
td.text { text-align: left; white-space: normal; min-width: 12rem; } th.text { text-align: left; }
td a { color: inherit; text-decoration-color: var(--good); }
tr.pair td.reading { color: var(--fit); font-weight: 600; }
tr.base td.reading, tr.still td.reading, tr.unavailable td.reading { color: var(--bad); font-weight: 600; }
.zero { stroke: var(--ink); stroke-dasharray: 3 2; } .span { stroke: var(--good); stroke-width: 2; }
.dot { fill: var(--good); } svg.forest { width: 9rem; margin: 0; }
.checks { padding: .5rem .8rem; list-style: none; margin: .4rem 0; } 
.checks li { padding: .25rem 0 .25rem 5rem; position: relative; }
.checks b { position: absolute; left: 0; } ul.plain { padding-left: 1.2rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .media { grid-template-columns: minmax(0, 1fr); }
  .media video { max-height: 60vh; margin: auto; } body { padding: 1rem .7rem 3rem; }
  .checks li { padding-left: 0; } .checks b { position: static; margin-right: .5rem; } }
@media (prefers-reduced-motion: reduce) { * { scroll-behavior: auto; } }
"""
)

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], said = document.querySelector("#said");
  const value = (row, column) => {
    const cell = row.cells[column], text = cell.dataset.v ?? cell.textContent;
    return text === "" ? null : cell.dataset.t ? text.toLowerCase() : parseFloat(text);
  };
  table.tHead.addEventListener("click", event => {
    const head = event.target.closest("th");
    if (!head) return;
    const up = head.getAttribute("aria-sort") !== "ascending", column = head.cellIndex;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].sort((first, second) => {
      const a = value(first, column), b = value(second, column);
      if (a === null || b === null) return (a === null) - (b === null);
      return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
    });
    body.append(...rows);
    said.textContent = `Sorted by ${head.textContent}, ${up ? "ascending" : "descending"}.`;
  });
}
"""

# Only this script runs, and nothing is fetched, whatever a file name or a reason holds.
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{_SCRIPT_HASH}'; base-uri 'none'; form-action 'none'"
)
