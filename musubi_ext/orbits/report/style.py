"""The look of report.html and its few lines of script: nothing is loaded from anywhere."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1d1f23; --faint: #666b74; --rule: #dedcd6;
  --good: #4a7c9b; --bad: #c8553d; --fit: #2e7d4f; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1d2024; --ink: #e8e6e1; --faint: #9a9fa8;
  --rule: #34383e; --good: #6fa8c9; --bad: #e57a62; --fit: #6cbf8c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .8rem; }
h3 { font-size: .95rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .3rem 0; } .faint { color: var(--faint); font-size: .85rem; }
.counts { display: flex; flex-wrap: wrap; gap: 1.6rem; margin: 1rem 0; }
.counts b { display: block; font-size: 1.9rem; line-height: 1.1; }
.fit { color: var(--fit); } .unfit, .unreadable { color: var(--bad); }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .8rem; min-width: 0; }
.clips { align-items: start; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
.clip { content-visibility: auto; contain-intrinsic-size: auto 220px; }
.directions { margin: 0; padding-left: 2rem; overflow-wrap: anywhere; }
.clip img { display: block; max-width: 100%; height: auto; margin: .5rem 0; border-radius: 4px; }
.clip ul { margin: .3rem 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; margin-top: .4rem; }
svg text { font-size: 11px; fill: var(--faint); } svg text.limit { fill: var(--ink); }
.good { fill: var(--good); } .bad { fill: var(--bad); }
.axis { stroke: var(--rule); } .limit { stroke: var(--ink); stroke-dasharray: 3 2; fill: none; }
text.limit { stroke: none; }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--card); max-width: 45vw;
  overflow: hidden; text-overflow: ellipsis; }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--good); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td.over { color: var(--bad); font-weight: 600; }
"""

SCRIPT = """
const table = document.querySelector("#clips"), body = table.tBodies[0];
const value = (row, column) => {
  const text = row.cells[column].dataset.v, number = parseFloat(text);
  return text === "" ? null : row.cells[column].dataset.t ? text : number;
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
});
"""
