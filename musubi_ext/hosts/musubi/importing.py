"""Import musubi-tuner as a library: also without CUDA, and without what its import does to the surrounding program.

Every fix is applied only where it is needed and undone after the import, whether that went well or not:

(a) a torchvision whose compiled operators do not load (PyPI's wheel beside a CPU torch): declare the two operators
    that it describes while it is imported;
(b) no CUDA: `wan/modules/t5.py` calls `torch.cuda.current_device()` for the default of an argument;
(c) `logging.basicConfig(level=INFO)` at the top of its modules, and its messages on standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from types import ModuleType

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.discovery import Host, find_host
from musubi_ext.hosts.musubi.requirements import host_packages, missing, pip_command
from musubi_ext.hosts.musubi.seams import check_seams

TRAINER = "musubi_tuner.wan_train_network"
OPERATORS = ("nms", "qnms")  # torchvision/_meta_registrations.py describes these two unconditionally
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# Remarks of other libraries on other libraries. Where warnings are errors, each would end the import.
FILTERS: tuple[tuple[str, type[Warning], str], ...] = (
    # SWIG's types, which sentencepiece registers, have no __module__.
    (r"builtin type (SwigPyPacked|SwigPyObject|swigvarlink) has no __module__", DeprecationWarning, ""),
    # musubi-tuner tries the attention packages that are there; they use older names of torch.
    ("", FutureWarning, r"(xformers|flash_attn|sageattention)(\.|$)"),
)

_lock = threading.RLock()  # the fixes change the process for a moment


def import_host() -> ModuleType:
    """`musubi_tuner.wan_train_network`, its trainer's methods checked. Raises UserError as `find_host` does, for
    missing modules (all of them, with the pip command), and for methods that differ from what we override."""
    module = import_host_module(TRAINER)
    _check_once(module.WanNetworkTrainer)
    return module


def import_host_module(name: str) -> ModuleType:
    """Any module of musubi-tuner, "musubi_tuner.wan_cache_latents", with the same fixes. Raises UserError."""
    with _lock:
        if name in sys.modules:
            return sys.modules[name]
        host = find_host()
        if lacking := missing():
            names = ", ".join(requirement.module for requirement in lacking)
            raise UserError(f"musubi-tuner needs modules that are not installed: {names} ({pip_command(lacking)})")
        return _import(name, host)


def torchvision_loads() -> bool:
    """Whether torchvision is there with its compiled operators. diffusers and transformers cannot be imported where a
    torchvision is installed that lacks them, unless musubi-tuner was imported first."""
    import torch

    try:
        return _torchvision_imports() and hasattr(torch.ops.torchvision, OPERATORS[0])
    except ImportError:
        return False


@lru_cache
def _check_once(trainer: type) -> None:
    check_seams(trainer, find_host().version)


def _import(name: str, host: Host) -> ModuleType:
    fixes = (_some_warnings_allowed, _root_logger_kept, _no_output, _torchvision_operators, _current_device)
    try:
        with _on_path(str(host.import_folder)), _on_path(str(host_packages()), stays=False), ExitStack() as stack:
            for fix in fixes:
                stack.enter_context(fix())
            return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # a shared library is missing; torch and torchvision do not match
        where = f"musubi-tuner {host.version} at {host.root}"
        raise UserError(f"{where}: {name} cannot be imported: {error} (`musubi-ext doctor` lists versions)") from error


@contextmanager
def _on_path(folder: str, *, stays: bool = True) -> Iterator[None]:
    """`folder` on sys.path. If all goes well it `stays`, for what musubi-tuner imports later.

    What does not stay is not handed to child processes either, which import diffusers without the fixes.
    """
    new = folder not in sys.path and os.path.isdir(folder)
    if new:
        sys.path.append(folder)
    try:
        yield
    except BaseException:
        stays = False
        raise
    finally:
        if new and not stays:
            sys.path.remove(folder)


@contextmanager
def _torchvision_operators() -> Iterator[None]:
    """Fix (a). The import of torchvision itself says whether its operators are there."""
    import torch

    if _torchvision_imports():
        yield
        return
    with torch.library._scoped_library("torchvision", "FRAGMENT") as library:  # taken back at the end
        for operator in OPERATORS:
            library.define(operator + SCHEMA)
        yield


def _torchvision_imports() -> bool:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]  # parts of the failed import
        return False
    return True


@contextmanager
def _current_device() -> Iterator[None]:
    """Fix (b): without CUDA the current device is the CPU."""
    import torch

    if torch.cuda.is_available():
        yield
        return
    original = torch.cuda.current_device
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    try:
        yield
    finally:
        torch.cuda.current_device = original


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Fix (c): basicConfig does nothing where the root logger has a handler."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


@contextmanager
def _no_output() -> Iterator[None]:
    """Fix (c): "Trying to import sageattention" is no result of ours; it goes to the log, at its lowest level."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        yield
    for line in said.getvalue().splitlines():
        logging.getLogger(__name__).debug("musubi-tuner: %s", line)


@contextmanager
def _some_warnings_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        for message, category, module in FILTERS:
            warnings.filterwarnings("ignore", message, category, module)
        yield
