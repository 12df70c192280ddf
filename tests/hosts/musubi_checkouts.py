"""Small stand-ins for musubi-tuner on disk: a checkout of a version, and the git repository it was committed to."""

from __future__ import annotations

import subprocess
from pathlib import Path

PYPROJECT = '[project]\nname = "musubi-tuner"\nversion = "{version}"\n'


def make_checkout(root: Path, version: str = "0.3.4", trainer: str = "") -> Path:
    """A folder with musubi-tuner's shape; `trainer` is the text of its wan_train_network.py."""
    package = root / "src" / "musubi_tuner"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "wan_train_network.py").write_text(trainer, encoding="utf-8")
    (root / "pyproject.toml").write_text(PYPROJECT.format(version=version), encoding="utf-8")
    return root


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(root: Path, tag: str) -> str:
    """Commit all of `root` under a tag; returns the commit."""
    if not (root / ".git").exists():
        git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", tag)
    git(root, "tag", tag)
    return git(root, "rev-parse", "HEAD")
