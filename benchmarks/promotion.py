"""`musubi-ext registry promote` on the pocket, as a command: at first, and when all that it needs was made before.

    python benchmarks/promotion.py                   # on a SQLite file
    python benchmarks/promotion.py --uri http://…    # on a server; its model `benchmark-promotion` gets two versions

Each figure is a process from start to end, imports included. Between two promotions the champion is rolled back. The
floor is a process that imports MLflow, opens the store and asks it one question.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tables import insert, machine, table

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.pocket.config import SHIPPED
from musubi_ext.pocket.random_lora import random_lora
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.promotion import set_candidate
from musubi_ext.registry.store import tracking_uri
from musubi_ext.storage import write_json, write_text

NAME = "benchmark-promotion"
GOAL = 2.0  # seconds
GATE = "[gate]\nmin_scenes = 5\n[motion]\nmin = 0.01\n[metrics.psnr]\nmax_loss = 100\n[suite]\nscenes = 12\n"
FLOOR = "import sys; from musubi_ext.registry.store import connect; connect(sys.argv[1])"


def seconds(words: Sequence[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a process. Raises CalledProcessError when it fails."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used


def measure(uri: str, folder: Path, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Wall-clock and processor seconds of every process."""
    gate = folder / "gate.toml"
    write_text(gate, GATE)
    verb = ["-m", "musubi_ext.cli", "registry"]
    store = ["--mlflow_tracking_uri", uri]
    promote = [*verb, "promote", NAME, "--gate", str(gate), *store]
    for number in range(2):
        weights = (random_lora(seed, size=SHIPPED, down=0.01, up=0.01) for seed in (number, number + 10))
        pair = AdapterPair.save(folder / str(number), "pair", *weights)
        set_candidate(NAME, register_pair(pair, NAME, uri=uri), uri=uri)
        first = seconds(promote)
    found: dict[str, list[tuple[float, float]]] = {
        "with the champion's videos kept": [first],
        "all kept": [],
        "floor": [],
    }
    for _ in range(repeats):
        seconds([*verb, "rollback", NAME, "--reason", "benchmark", *store])
        found["all kept"].append(seconds(promote))
        found["floor"].append(seconds(["-c", FLOOR, uri]))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and fail where the goal is missed by the best of the repeats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", help="tracking URI (a SQLite file in a temporary folder)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--markdown", type=Path, help="put the table between the markers `promotion` of this file")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["MUSUBI_EXT_CACHE"] = str(folder / "cache")
        found = measure(tracking_uri(args.uri or f"sqlite:///{folder}/mlflow.db"), folder, args.repeats)
    rows = []
    for name, figures in found.items():
        wall, used = zip(*figures, strict=True)
        rows.append([name, *(f"{value:.2f}" for value in (statistics.median(wall), min(wall), min(used)))])
    text = f"{machine()}\n\n" + table(("promotion, 12 scenes", "median s", "best s", "best processor s"), rows)
    print(text)
    if args.json:
        write_json(args.json, {"machine": machine(), "goal": GOAL, "figures": found})
    if args.markdown:
        insert(args.markdown, "promotion", text)
    if min(wall for wall, _ in found["all kept"]) > GOAL:
        sys.exit(f"a promotion with everything kept took more than {GOAL:g} s")


if __name__ == "__main__":
    main()
