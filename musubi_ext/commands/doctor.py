"""`musubi-ext doctor`: could a training start here? Every part is looked at; what fails says how to mend it."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from musubi_ext.errors import UserError

GIB = 1 << 30
ROOM = 1  # GiB; a pair of rank 32 for the 14B experts takes 1.2 in float32
PYTHONS = ((3, 11), (3, 13))  # from, up to but without: musubi-tuner's pyproject.toml and ours
MODELS = ("dit", "dit_high_noise", "vae", "t5")


@dataclass(frozen=True)
class Check:
    """One line: what was looked at and what was found. `status` info: worth knowing, no reason not to train."""

    name: str
    status: str  # ok, failed or info
    found: str
    fix: str = ""  # of what failed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `doctor`."""
    parser.add_argument("--preset", metavar="NAME", help="check the memory that this preset needs")
    for name in MODELS:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help="weights to look at")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Look at everything; returns 0 when training could start, 1 when not."""
    checks = list(_checks(args))
    failed = [check for check in checks if check.status == "failed"]
    if args.json:
        print(json.dumps({"ready": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print_table(checks)
        for check in failed:
            print(f"{check.name}: {check.fix}")
        print(f"not ready: {len(failed)} of {len(checks)} checks failed" if failed else "ready to train")
    return 1 if failed else 0


def _checks(args: argparse.Namespace) -> Iterator[Check]:
    yield from _host()
    yield from _frameworks()
    yield from _modules()
    yield from _devices()
    yield _bitsandbytes(needed=False)
    yield _disk(Path.cwd())
    for name in MODELS:
        if (path := getattr(args, name)) is not None:
            yield _model(name, path)


def _host() -> Iterator[Check]:
    from musubi_ext.hosts.musubi.discovery import find_host
    from musubi_ext.hosts.musubi.importing import import_host
    from musubi_ext.hosts.musubi.requirements import missing

    try:
        host = find_host()
    except UserError as error:
        yield Check("musubi-tuner", "failed", "none that can be used", _joined(error))
        yield Check("seams", "info", "unavailable: no musubi-tuner")
        return
    commit = {None: "unknown", True: "as released", False: "not as released"}[host.is_released]
    short = f" {host.commit[:12]}" if host.commit else ""
    yield Check("musubi-tuner", "ok", f"v{host.version}, commit{short} {commit}, {host.root} ({host.source})")
    if missing():
        yield Check("seams", "info", "unavailable: modules are missing")
        return
    try:
        import_host()
    except UserError as error:
        yield Check("seams", "failed", "not what we override and call", _joined(error))
    else:
        yield Check("seams", "ok", "as we override and call them")


def _frameworks() -> Iterator[Check]:
    import torch

    lowest, beyond = PYTHONS
    here = sys.version_info[:2]
    version = ".".join(map(str, sys.version_info[:3]))
    fix = f"install into a Python from {lowest[0]}.{lowest[1]} on, below {beyond[0]}.{beyond[1]}"
    yield _either("Python", lowest <= here < beyond, version, fix)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Check("torch", "ok", f"{torch.__version__} ({built})")


def _modules() -> Iterator[Check]:
    from musubi_ext.hosts.musubi.requirements import ALWAYS, pip_command

    for each in ALWAYS:
        found = "missing" if each.is_missing else each.version or "there, version unknown"
        yield _either(each.module, not each.is_missing, found, pip_command([each]))


def _devices() -> Iterator[Check]:
    import torch

    if not torch.cuda.is_available():
        yield Check("CUDA", "info", "unavailable: no CUDA device")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Check(f"cuda:{index}", "ok", f"{name}, {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free")


def _bitsandbytes(needed: bool) -> Check:
    """Whether an 8-bit optimizer takes a step. Without CUDA it has no use; `needed`: the preset's optimizer is one."""
    import torch

    from musubi_ext.hosts.musubi.requirements import WITH_CUDA, pip_command

    bad = "failed" if needed else "info"
    other = "or choose another --optimizer_type, adamw"
    if not torch.cuda.is_available():
        return Check(WITH_CUDA.module, bad, "unavailable: no CUDA device", "choose another --optimizer_type, adamw")
    if WITH_CUDA.is_missing:
        return Check(WITH_CUDA.module, bad, "missing", f"{pip_command([WITH_CUDA])}, {other}")
    try:
        _take_8bit_step()
    except (ImportError, RuntimeError, AttributeError) as error:  # its library for this CUDA is not there
        return Check(WITH_CUDA.module, bad, f"does not work: {error}", f"install one for this CUDA, {other}")
    return Check(WITH_CUDA.module, "ok", f"{WITH_CUDA.version}, AdamW8bit takes a step")


def _take_8bit_step() -> None:
    import torch

    bitsandbytes = importlib.import_module("bitsandbytes")  # has no types
    weight = torch.nn.Parameter(torch.zeros(1 << 14, device="cuda"))  # smaller ones are kept in 32 bits
    weight.grad = torch.ones_like(weight)
    bitsandbytes.optim.AdamW8bit([weight]).step()


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / GIB
    return _either("disk", free >= ROOM, f"{free:.1f} GiB free in {folder}", f"make room: expected {ROOM} GiB or more")


def _model(flag: str, path: Path) -> Check:
    name, fix = f"--{flag}", f"give the file of the weights, or download it again: {path}"
    if (path / "model_index.json").is_file():
        return Check(name, "ok", f"{path}: a pipeline folder")
    if not path.is_file():
        return Check(name, "failed", f"{path}: {'a folder' if path.is_dir() else 'no such file'}", fix)
    found, good = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    return _either(name, good, f"{path}: {_size(path.stat().st_size)}, {found}", fix)


def _safetensors(path: Path) -> tuple[str, bool]:
    """What its header says; a file that was cut short contradicts it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            tensors = len(file.keys())
    except (SafetensorError, OSError) as error:
        return f"its header cannot be read: {error}", False
    return f"{tensors} tensors", tensors > 0


def _pickle(path: Path) -> tuple[str, bool]:
    """Whether torch wrote it: a zip archive, before torch 1.6 a bare pickle. Nothing is unpickled."""
    with open(path, "rb") as file:
        start = file.read(2)
    good = start[:1] == b"\x80" or (start == b"PK" and zipfile.is_zipfile(path))
    return ("written by torch" if good else "neither .safetensors nor written by torch"), good


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.2f} MiB"


def _joined(error: UserError) -> str:
    return "; ".join(error.problems)


def _either(name: str, good: bool, found: str, fix: str) -> Check:
    return Check(name, "ok", found) if good else Check(name, "failed", found, fix)


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colors = {"ok": "green", "failed": "red", "info": "yellow"}
    table = Table("check", "", "found")
    for check in checks:
        table.add_row(check.name, Text(check.status, colors[check.status]), Text(check.found))
    Console().print(table)
