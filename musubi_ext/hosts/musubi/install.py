"""Get musubi-tuner: clone a released tag into the cache directory, or remember a checkout that is already there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.discovery import (
    COMMITS,
    HOME,
    PINNED,
    RANGE,
    Host,
    cache_home,
    checkout,
    choice_file,
    git,
    head_commit,
)
from musubi_ext.storage import write_json

UPSTREAM = "https://github.com/kohya-ss/musubi-tuner"


@dataclass(frozen=True)
class Installation:
    """What `install_tag` and `install_from` did. `host` is None after a dry run of a clone."""

    host: Host | None
    said: str  # one line


def install_tag(
    tag: str = PINNED, *, url: str = UPSTREAM, commits: Mapping[str, str] = COMMITS, dry_run: bool = False
) -> Installation:
    """Clone `tag` of `url` into the cache directory, whole or not at all, and use it from now on. A second call
    changes nothing. Raises UserError: unknown tag, no git, no network, or another commit than `commits` names."""
    if tag not in commits:
        raise UserError(f"--tag {tag}: expected one of {', '.join(commits)}")
    folder = cache_home() / f"musubi-tuner-{tag}"
    there = folder.exists()
    if there:
        _require_commit(folder, tag, commits[tag], f"remove {folder} and run it again")
    if dry_run:
        return Installation(None, f"{folder}: {'is there already' if there else f'would clone {url} at {tag}'}")
    if not there:
        _clone(tag, url, commits[tag], folder)
    done = "was there already" if there else f"cloned from {url}"
    return Installation(_use(folder), f"{folder}: musubi-tuner {tag}, commit {commits[tag][:12]}, {done}")


def install_from(folder: Path, *, dry_run: bool = False) -> Installation:
    """Use the checkout at `folder`, in place, from now on. Raises UserError when it is none, or out of range."""
    root = folder.expanduser().resolve()
    host = checkout(root, "cache")
    commit = f"commit {host.commit[:12]}" if host.commit else "commit unknown"
    if not dry_run:
        host = _use(root)
    return Installation(host, f"{root}: musubi-tuner v{host.version}, {commit}, {'would be' if dry_run else 'is'} used")


def precedence(host: Host, found: Host) -> str | None:
    """Why what was installed is not what will be used, or None."""
    if found.root == host.root:
        return None
    if found.source == HOME:
        return f"{HOME}={found.root} comes first: unset it to use {host.root}"
    return f"the importable musubi-tuner at {found.root} comes first: uninstall it to use {host.root}"


def _use(root: Path) -> Host:
    """Remember the checkout at `root`."""
    host = checkout(root, "cache")
    try:
        write_json(choice_file(), {"checkout": str(root)})
    except OSError as error:
        raise _unwritable(error) from error
    return host


def _clone(tag: str, url: str, commit: str, folder: Path) -> None:
    """Clone beside `folder`, compare the commit, then rename: `folder` never exists half."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".musubi-tuner-", dir=folder.parent) as scratch:
            fresh = Path(scratch) / "clone"
            _run_clone(tag, url, fresh)
            _require_commit(fresh, tag, commit, f"{url} is not what was released; nothing was kept")
            checkout(fresh, "cache")
            _keep(fresh, folder, commit)
    except OSError as error:
        raise _unwritable(error) from error


def _keep(fresh: Path, folder: Path, commit: str) -> None:
    try:
        os.rename(fresh, folder)
    except OSError:
        if head_commit(folder) != commit:  # else another process has just finished the same
            raise


def _run_clone(tag: str, url: str, folder: Path) -> None:
    quiet = ["-c", "advice.detachedHead=false"]
    try:
        answer = git(*quiet, "clone", "--quiet", "--branch", tag, "--depth", "1", url, str(folder))
    except FileNotFoundError as error:
        raise UserError(
            f"git was not found: install it, or give a checkout of musubi-tuner {RANGE} with `--from DIR`"
        ) from error
    if answer.returncode:
        said = answer.stderr.strip().splitlines()
        reason = said[-1] if said else f"exit status {answer.returncode}"
        raise UserError(f"{url}: cannot clone {tag}: {reason} (or give a checkout with `--from DIR`)")


def _require_commit(folder: Path, tag: str, expected: str, fix: str) -> None:
    found = head_commit(folder)
    if found != expected:
        raise UserError(f"{folder}: expected commit {expected} of {tag}, found {found or 'none'} ({fix})")


def _unwritable(error: OSError) -> UserError:
    return UserError(
        f"{cache_home()}: cannot write: {error.strerror or error} (set MUSUBI_EXT_CACHE to a folder that you may write)"
    )
