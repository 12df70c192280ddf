"""`musubi-ext doctor`: could a training start here? Every part is looked at; what fails says how to mend it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from musubi_ext.commands.doctor_checks import Check

MODELS = ("dit", "dit_high_noise", "vae", "t5")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `doctor`."""
    parser.add_argument("--preset", metavar="NAME", help="check the memory that this preset needs")
    for name in MODELS:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help="weights to look at")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Look at everything; returns 0 when training could start, 1 when not. Raises UserError for an unknown preset."""
    checks = list(_checks(args))
    failed = [check for check in checks if check.status == "failed"]
    if args.json:
        print(json.dumps({"ready": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print_table(checks)
        for check in checks:
            if check.fix:
                print(f"{check.name}: {check.fix}")
        print(f"not ready: {len(failed)} of {len(checks)} checks failed" if failed else "ready to train")
    return 1 if failed else 0


def _checks(args: argparse.Namespace) -> Iterator[Check]:
    from musubi_ext.commands import doctor_checks, doctor_preset

    preset = doctor_preset.flags(args.preset) if args.preset is not None else None
    in_musubi_tuner = preset is None or preset.task != doctor_preset.POCKET
    yield from doctor_checks.host(needed=in_musubi_tuner)
    yield from doctor_checks.frameworks()
    yield from doctor_checks.modules(needed=in_musubi_tuner)
    yield from doctor_checks.devices()
    yield doctor_checks.bitsandbytes(needed=preset is not None and preset.optimizer_type.endswith("8bit"))
    yield doctor_checks.disk(Path.cwd())
    for name in MODELS:
        if (path := getattr(args, name)) is not None:
            yield doctor_checks.model(name, path)
    if preset is not None:
        yield from doctor_preset.memory(preset, args.dit)


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colors = {"ok": "green", "failed": "red", "info": "yellow"}
    table = Table("check", "", "found")
    for check in checks:
        table.add_row(check.name, Text(check.status, colors[check.status]), Text(check.found))
    Console().print(table)
