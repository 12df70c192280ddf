"""Peak main memory of one expert's training, and of both in sequence: the first model is freed before the second loads.

    MUSUBI_TUNER_HOME=… python benchmarks/memory.py --out runs/memory --markdown docs/TRAINING_RESULTS.md

Every training is a fresh process of `musubi_ext.wan_train_network` on the CPU, experts of random float32 weights, its
peak the high-water mark of its resident set (VmHWM, Linux). The dry run loads everything but the models: what
a process takes without them. For comparison upstream's own two-expert training, which holds both at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pocket_inputs import make_data, random_expert, train_words
from resident import high_water
from rich.console import Console
from rich.progress import Progress
from tables import insert, machine, table

from musubi_ext.hosts.musubi.importing import import_host
from musubi_ext.storage import write_json

GOAL = 1.10
MIB = 1 << 20
INTERVAL = 0.02  # seconds between two looks; the mark never falls, so only the very last of a process is missed
ONE, BOTH, NONE, UPSTREAM = "high alone", "both in sequence", "no model (--dry_run)", "upstream, both in one run"
WAYS: dict[str, tuple[str, ...]] = {
    NONE: ("--no_mlflow", "--dry_run"),
    ONE: ("--no_mlflow", "--overwrite", "--experts", "high"),
    "low alone": ("--no_mlflow", "--overwrite", "--experts", "low"),
    BOTH: ("--no_mlflow", "--overwrite"),
    UPSTREAM: ("--extension", "off"),
}
# Upstream knows the small model's task only in a process that was told of it.
TOLD = """\
import sys
from pathlib import Path
from musubi_ext.hosts.musubi.pocket_task import register
from musubi_ext.wan_train_network import main
register(Path(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Train every way in turns, and write `OUT/memory.json` and the Markdown table."""
    args = parser().parse_args(argv)
    import_host()
    folder = args.out / "experts"
    dit = {
        flag: random_expert(folder / f"{name}_{args.layers}.safetensors", args.heads, args.layers, args.ffn, seed)
        for seed, (flag, name) in enumerate((("dit", "low"), ("dit_high_noise", "high")))
    }
    data = make_data(args.out / "data", 4, 1).plain
    peaks: dict[str, list[int]] = {way: [] for way in WAYS}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=args.repeats * len(WAYS))
        for number in range(args.repeats):
            for way in WAYS:
                bar.update(task, description=way)
                out = args.out / f"{number}-{list(WAYS).index(way)}"
                peaks[way].append(peak(way, train_words(data, dit, out, args.steps), dit["dit"], args.out))
                bar.advance(task)
    document = {
        "machine": machine(),
        "expert_bytes": dit["dit"].stat().st_size,
        "steps": args.steps,
        "repeats": args.repeats,
        "peaks": peaks,
        "ratio": median(peaks[BOTH]) / median(peaks[ONE]),
        "ratio_above_no_model": (median(peaks[BOTH]) - median(peaks[NONE]))
        / (median(peaks[ONE]) - median(peaks[NONE])),
    }
    write_json(args.out / "memory.json", document)
    text = markdown(document)
    print(text)
    if args.markdown:
        insert(args.markdown, "memory", text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/memory"))
    made.add_argument("--heads", type=int, default=8, help="of 128: 8 make a model 1024 wide")
    made.add_argument("--layers", type=int, default=6)
    made.add_argument("--ffn", type=int, default=4096)
    made.add_argument("--steps", type=int, default=3, help="updates of each expert")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--markdown", type=Path, help="file whose table is replaced")
    return made


def peak(way: str, words: Sequence[str], dit: Path, out: Path) -> int:
    """Bytes that a fresh process took at most. Raises RuntimeError where the training failed."""
    words = [*words, *WAYS[way]]
    told = ["-c", TOLD, str(dit)] if way == UPSTREAM else ["-m", "musubi_ext.wan_train_network"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with open(out / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, *told, *words], stdout=log, stderr=log, env={**os.environ, **threads}
        )
        highest = 0
        while process.poll() is None:
            highest = max(highest, high_water(process.pid))
            time.sleep(INTERVAL)
    if process.returncode:
        raise RuntimeError(f"{way}: training ended with status {process.returncode}, see {out / 'log.txt'}")
    return highest


def markdown(document: Mapping[str, Any]) -> str:
    """The table, and both ratios."""
    peaks = document["peaks"]
    one, none = median(peaks[ONE]), median(peaks[NONE])
    rows = [
        [
            way,
            f"{median(taken) / MIB:.0f}",
            f"{min(taken) / MIB:.0f}–{max(taken) / MIB:.0f}",
            f"{median(taken) / one:.3f}",
            "–" if way == NONE else f"{(median(taken) - none) / (one - none):.3f}",
        ]
        for way, taken in peaks.items()
    ]
    return "\n".join(
        [
            f"Random experts of {document['expert_bytes'] / MIB:.0f} MiB float32, {document['steps']} updates each, "
            f"{document['repeats']} processes of each kind. {document['machine']}.",
            "",
            table(["training", "peak, MiB", "range", "÷ high alone", "the same without the process itself"], rows),
            "",
            f"Both in sequence ÷ one alone: {document['ratio']:.3f} (goal ≤ {GOAL:.2f}).",
        ]
    )


if __name__ == "__main__":
    main()
