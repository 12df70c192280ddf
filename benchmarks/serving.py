"""What the service adds to the bare pipeline call, on the pocket model: `bentoml serve` on loopback, asked over HTTP.

    python benchmarks/serving.py --markdown docs/SERVING_RESULTS.md      # five minutes on two CPU cores

Bare calls and jobs take turns, another one first each time, with the same request and one torch thread each; figures
that are compared are of neighbours in one run. The engine alone, without queue and HTTP: benchmarks/serving_engine.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tables import insert, machine, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder: there `serving` is this file

from service_figures import asking, cold_starts, idle_cpu, latency, picture, prompt, submissions, throughput
from serving_engine import pocket_pair

from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.generation.pair import defaults
from musubi_ext.generation.pipeline import POCKET
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.store import connect
from musubi_ext.storage import write_json
from serving.making.request import JobRequest

NAME = "benchmark"


@dataclass(frozen=True)
class Row:
    """One line of the table. `met`: None where nothing was promised."""

    what: str
    measured: str
    goal: str = ""
    met: bool | None = None

    def cells(self) -> list[str]:
        """As text."""
        return [self.what, self.measured, self.goal, {None: "", True: "met", False: "missed"}[self.met]]


def bare_call() -> Callable[[int], float]:
    """A function that makes the video of a number by one call of the pipeline: its seconds."""
    rotate, settled = CircleRotate(), defaults(POCKET, None)

    def call(number: int) -> float:
        request = JobRequest(prompt(number), picture(number), seed=number).generation(settled)
        began = time.perf_counter()
        rotate.run(request)
        return time.perf_counter() - began

    call(999_999)
    return call


def promotions(folder: Path, count: int) -> dict[str, list[float]]:
    """Seconds of the exchange of a newly promoted pair, and what the first job of it takes longer than the next."""
    os.environ["MUSUBI_EXT_CACHE"] = str(folder / "cache")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = connect(uri)
    for seed in range(1, count + 2):
        pair = pocket_pair(folder / "pairs" / str(seed), f"pair{seed}", seed)
        register_pair(pair, NAME, uri=uri)
    client.set_registered_model_alias(NAME, "champion", "1")
    follow = {"pair": f"models:/{NAME}@champion", "tracking_uri": uri, "adapters": {"every": 0.2}}
    found: dict[str, list[float]] = {"swap": [], "first": []}
    with asking(folder, **follow) as service:
        for version in range(2, count + 2):
            client.set_registered_model_alias(NAME, "champion", str(version))
            while not str(service.http.post("/stats", json={}).json()["adapters"]["current"]).endswith(f"/{version}"):
                time.sleep(0.05)
            first, row = service.job(50_000 + version)
            second, _ = service.job(60_000 + version)
            found["swap"].append(row.result["swap_seconds"])
            found["first"].append(first - second)
    return found


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """The document of one run."""
    bare = bare_call()
    starts = cold_starts(folder / "cold", 3)
    with asking(folder / "plain") as plain:
        idle = idle_cpu(plain.service, 30.0)
        with asking(folder / "full", evaluation={"threads": 1}, previews={}) as full:
            times = latency(plain, full, bare, rounds)
        queue = throughput(plain, bare, max(1, rounds // 4))
        submitted = submissions(plain, 10 * rounds)
    return {
        "machine": machine(),
        "rounds": rounds,
        "cold_start": starts,
        "idle_cpu": idle,
        "latency": times,
        "throughput": queue,
        "submit": submitted,
        "promotions": promotions(folder / "swap", max(2, rounds // 2)),
    }


def rows(found: Mapping[str, Any]) -> list[Row]:
    """The table's lines, each goal judged."""
    times, queue, submit = found["latency"], found["throughput"], found["submit"]
    over = median(job - 1.05 * bare for job, bare in zip(times["job"], times["bare"], strict=True))
    ratio = median(job / bare for job, bare in zip(times["job"], times["bare"], strict=True))
    work = median(bare / jobs for bare, jobs in zip(queue["bare"], queue["jobs"], strict=True))
    saved, encode = median(times["saved"]), median(times["encode"])
    start, swap = median(found["cold_start"]), found["promotions"]
    lines = [
        Row("bare pipeline call", ms(times["bare"])),
        Row("job, request to end, no scores and previews", f"{ms(times['job'])}, {ratio:.3f} × the bare call"),
        Row("the same over 1.05 × the bare call", f"{1000 * over:.0f} ms", "≤ 30 ms", over <= 0.030),
        Row("job with both", ms(times["full"])),
        Row("of that for scores and mp4", ms(times["scores"])),
        Row("of that for previews", ms(times["previews"])),
        Row("8 bare calls ÷ 8 queued jobs", f"{work:.3f}", "≥ 0.95", work >= 0.95),
        Row("encode stage", ms(times["encode"])),
        Row("saved by a repeated prompt and picture", ms(times["saved"]), "the encode stage", near(saved, encode)),
        Row("swap of a promoted pair", ms(swap["swap"]), "≤ 100 ms", median(swap["swap"]) <= 0.100),
        Row("first job of it, longer than its second", ms(swap["first"])),
        Row("cold start to ready", f"{start:.1f} s", "≤ 10 s", start <= 10.0),
        Row("CPU when idle", f"{found['idle_cpu']:.1%} of a core", "≤ 2%", found["idle_cpu"] <= 0.02),
    ]
    for name, what in (
        ("idle", "submit"),
        ("1280x720 JPEG", "submit, 1280×720 JPEG"),
        ("busy", "submit, jobs running"),
    ):
        late = percentile(submit[name], 0.95)
        text = f"{ms(submit[name])}, p95 {1000 * late:.1f} ms"
        lines.append(Row(what, text, *(("≤ 20 ms", late <= 0.020) if name == "idle" else ())))
    return lines


def markdown(found: Mapping[str, Any]) -> str:
    """The table, and what it was measured on."""
    return "\n".join(
        [
            f"{found['machine']}; medians of {found['rounds']} rounds.",
            "",
            table(["what", "measured", "goal", ""], [row.cells() for row in rows(found)]),
        ]
    )


def ms(values: Sequence[float]) -> str:
    """The median of seconds, as milliseconds."""
    middle = 1000 * median(values)
    return f"{middle:.1f} ms" if abs(middle) < 100 else f"{middle:,.0f} ms"


def near(saved: float, expected: float) -> bool:
    """Whether a saving is what was expected, to 10 ms: two jobs differ by as much."""
    return abs(saved - expected) <= 0.010


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="rounds that count (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="file whose table is replaced")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.rounds)
    print(markdown(found))
    if args.output:
        write_json(args.output, found)
    if args.markdown:
        insert(args.markdown, "serving", markdown(found))


if __name__ == "__main__":
    main()
