"""What a training needs of the machine, looked at part by part: a `Check` each."""

from __future__ import annotations

import importlib
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import UserError

GIB = 1 << 30
ROOM = 1  # GiB; a pair of rank 32 for the 14B experts takes 1.2 in float32
PYTHONS = ((3, 11), (3, 13))  # from, up to but without: musubi-tuner's pyproject.toml and ours


@dataclass(frozen=True)
class Check:
    """One line: what was looked at and what was found. `status` info: worth knowing, no reason not to train."""

    name: str
    status: str  # ok, failed or info
    found: str
    fix: str = ""  # of what failed, or would fail in another training


def host(needed: bool) -> Iterator[Check]:
    """musubi-tuner and its methods. `needed`: the training runs in it."""
    from musubi_ext.hosts.musubi.discovery import find_host
    from musubi_ext.hosts.musubi.requirements import missing

    try:
        found = find_host()
    except UserError as error:
        yield Check("musubi-tuner", _bad(needed), "none that can be used", _joined(error))
        yield Check("seams", "info", "unavailable: no musubi-tuner")
        return
    commit = {None: "unknown", True: "as released", False: "not as released"}[found.is_released]
    short = f" {found.commit[:12]}" if found.commit else ""
    yield Check("musubi-tuner", "ok", f"v{found.version}, commit{short} {commit}, {found.root} ({found.source})")
    if missing():
        yield Check("seams", "info", "unavailable: modules are missing")
    else:
        yield _seams(needed)


def _seams(needed: bool) -> Check:
    from musubi_ext.hosts.musubi.importing import TRAINER, import_host, import_host_module

    wrong = "unavailable: musubi-tuner cannot be imported"
    try:
        import_host_module(TRAINER)
        wrong = "not as we override and call them"
        import_host()
    except UserError as error:
        return Check("seams", _bad(needed), wrong, _joined(error))
    return Check("seams", "ok", "as we override and call them")


def frameworks() -> Iterator[Check]:
    """Python and torch."""
    import torch

    lowest, beyond = PYTHONS
    here = sys.version_info[:2]
    version = ".".join(map(str, sys.version_info[:3]))
    fix = f"install into a Python from {lowest[0]}.{lowest[1]} on, below {beyond[0]}.{beyond[1]}"
    yield either("Python", lowest <= here < beyond, version, fix)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Check("torch", "ok", f"{torch.__version__} ({built})")


def modules(needed: bool) -> Iterator[Check]:
    """What musubi-tuner imports. `needed`: the training runs in it; otherwise it runs in the pocket host."""
    from musubi_ext.hosts.musubi.importing import torchvision_loads
    from musubi_ext.hosts.musubi.requirements import ALWAYS, TORCHVISION, host_packages, pip_command

    for each in ALWAYS:
        found, fix = each.version or "there, version unknown", pip_command([each])
        if each.is_missing:
            yield Check(each.module, _bad(needed), "missing", fix)
        elif each.is_apart:
            yield Check(each.module, "ok", f"{found}, in {host_packages()}")
        elif each is TORCHVISION and not torchvision_loads():
            found += ", its operators do not load: musubi-tuner is imported all the same, diffusers cannot be"
            yield Check(each.module, _bad(not needed), found, fix)  # the pocket host imports diffusers
        else:
            yield Check(each.module, "ok", found)


def devices() -> Iterator[Check]:
    """Every CUDA device with its memory."""
    import torch

    if not torch.cuda.is_available():
        yield Check("CUDA", "info", "unavailable: no CUDA device")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Check(f"cuda:{index}", "ok", f"{name}, {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free")


def bitsandbytes(needed: bool) -> Check:
    """Whether an 8-bit optimizer takes a step. Without CUDA it has no use; `needed`: the preset's optimizer is one."""
    import torch

    from musubi_ext.hosts.musubi.requirements import WITH_CUDA, pip_command

    bad = _bad(needed)
    other = "or choose another --optimizer_type, adamw"
    if not torch.cuda.is_available():
        fix = "choose another --optimizer_type, adamw" if needed else ""
        return Check(WITH_CUDA.module, bad, "unavailable: no CUDA device", fix)
    if WITH_CUDA.is_missing:
        return Check(WITH_CUDA.module, bad, "missing", f"{pip_command([WITH_CUDA])}, {other}")
    try:
        _take_8bit_step()
    except (ImportError, RuntimeError, AttributeError) as error:  # its library for this CUDA is not there
        return Check(WITH_CUDA.module, bad, f"does not work: {error}", f"install one for this CUDA, {other}")
    return Check(WITH_CUDA.module, "ok", f"{WITH_CUDA.version}, AdamW8bit takes a step")


def _take_8bit_step() -> None:
    import torch

    library = importlib.import_module("bitsandbytes")  # has no types
    weight = torch.nn.Parameter(torch.zeros(1 << 14, device="cuda"))  # smaller ones are kept in 32 bits
    weight.grad = torch.ones_like(weight)
    library.optim.AdamW8bit([weight]).step()


def disk(folder: Path) -> Check:
    """Room for what a training writes, where `folder` is."""
    free = shutil.disk_usage(folder).free / GIB
    return either("disk", free >= ROOM, f"{free:.1f} GiB free in {folder}", f"make room: expected {ROOM} GiB or more")


def model(flag: str, path: Path) -> Check:
    """Whether a file of weights, or a pipeline folder, is there and whole as far as its header says."""
    name, fix = f"--{flag}", f"give the file of the weights, or download it again: {path}"
    if (path / "model_index.json").is_file():
        return Check(name, "ok", f"{path}: a pipeline folder")
    if not path.is_file():
        return Check(name, "failed", f"{path}: {'a folder' if path.is_dir() else 'no such file'}", fix)
    found, good = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    return either(name, good, f"{path}: {_size(path.stat().st_size)}, {found}", fix)


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


def _bad(needed: bool) -> str:
    return "failed" if needed else "info"


def _joined(error: UserError) -> str:
    return "; ".join(error.problems)


def either(name: str, good: bool, found: str, fix: str) -> Check:
    """A check that is ok or failed."""
    return Check(name, "ok", found) if good else Check(name, "failed", found, fix)
