"""What a run's tags say of where it ran: version, git, machine. None of it may keep a training from starting."""

from __future__ import annotations

import platform
import subprocess
import warnings
from pathlib import Path

from musubi_ext import __version__

_OWN_TREE = Path(__file__).resolve().parents[2]
_GIT_SECONDS = 5.0


def version_tags(kind: str) -> dict[str, str]:
    """What every run of ours carries; `kind` is "pair" or "expert"."""
    return {"musubi_ext.kind": kind, "musubi_ext.version": __version__}


def run_tags() -> dict[str, str]:
    """MLflow's own (user, program, its git commit), the git state of our source and of the working directory."""
    from mlflow.tracking.context.registry import resolve_tags

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GitPython's remarks about a program that is in no repository
        tags = {str(key): str(value) for key, value in resolve_tags().items()}
    states = {"musubi_ext.git": git_state(_OWN_TREE), "git": git_state(Path.cwd())}
    return {**tags, **{key: state for key, state in states.items() if state is not None}}


def device() -> str:
    """ "2 × NVIDIA H200", or "cpu (x86_64)"."""
    import torch

    if not torch.cuda.is_available():
        return f"cpu ({platform.machine()})"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))


def git_state(folder: Path) -> str | None:
    """The commit checked out at `folder`, with "+changes" where tracked files differ; None outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
