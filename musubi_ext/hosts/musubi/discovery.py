"""Where musubi-tuner is: importable, else `$MUSUBI_TUNER_HOME`, else the checkout of `musubi-ext host install`.

Only v0.3.0 to v0.3.4 are accepted: the methods that we override exist since v0.3.0 and are internal to
musubi-tuner, so that a newer version may change them without notice.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from musubi_ext.errors import UserError

PACKAGE = "musubi_tuner"
DISTRIBUTION = "musubi-tuner"
HOME: Final = "MUSUBI_TUNER_HOME"
PINNED = "v0.3.4"  # what `musubi-ext host install` fetches
COMMITS: dict[str, str] = {  # what each tag of https://github.com/kohya-ss/musubi-tuner stands for
    "v0.3.0": "78acafb784c3eb4ace01489f48d77f1518db178a",
    "v0.3.1": "29205cc797d0f8a038f98ad507af8acf151dc418",
    "v0.3.2": "9bfc5a48f9050f2a4ffb237683094e778486994b",
    "v0.3.3": "99792af5a47e3776fdd78c06874d03eae7c3f8f4",
    "v0.3.4": "30c658c4f4b0bf05038b3346eff9670259b10fc7",
}
SUPPORTED: tuple[str, ...] = tuple(tag.removeprefix("v") for tag in COMMITS)
RANGE = f"v{SUPPORTED[0]} to v{SUPPORTED[-1]}"
INSTALL = "run `musubi-ext host install`"

Source = Literal["importable", "MUSUBI_TUNER_HOME", "cache"]
REMEDIES: dict[Source, str] = {
    "importable": f"uninstall it or take it off PYTHONPATH, then {INSTALL}",
    "MUSUBI_TUNER_HOME": f"check out {PINNED} there, or unset {HOME} and {INSTALL}",
    "cache": f"{INSTALL}, or set {HOME} to a checkout",
}


@dataclass(frozen=True)
class Host:
    """One musubi-tuner. `root` holds src/musubi_tuner, or is the folder that holds the importable package."""

    root: Path
    version: str
    commit: str | None  # None where git or the checkout's .git is missing
    source: Source

    @property
    def import_folder(self) -> Path:
        """What stands on sys.path for `import musubi_tuner`."""
        return self.root / "src" if _is_checkout(self.root) else self.root

    @property
    def is_released(self) -> bool | None:
        """Whether the commit is the one of the version's tag; None when the commit is unknown."""
        return None if self.commit is None else self.commit == COMMITS[f"v{self.version}"]


def find_host() -> Host:
    """The musubi-tuner to train with. Raises UserError: none found, not a checkout, or a version out of range."""
    importable, named = _importable(), _from_environment()
    # A checkout that was imported is importable from then on: it still comes from where it was named.
    if named is not None and importable in (None, named):
        return checkout(named, HOME)
    chosen = chosen_checkout()
    if chosen is not None and importable in (None, chosen):
        return checkout(chosen, "cache")
    if importable is not None:
        return checkout(importable, "importable") if _is_checkout(importable) else _installed(importable)
    raise UserError(f"musubi-tuner was not found: {INSTALL}, or set {HOME} to a checkout of musubi-tuner {RANGE}")


def checkout(root: Path, source: Source) -> Host:
    """The clone at `root`. Raises UserError when it is none of musubi-tuner, or one out of range."""
    where = f"{HOME}={root}" if source == HOME else str(root)
    if not _is_checkout(root):
        found = "a folder without them" if root.is_dir() else "no folder"
        raise UserError(
            f"{where}: expected a checkout of musubi-tuner (pyproject.toml, src/{PACKAGE}/wan_train_network.py), "
            f"found {found} ({REMEDIES[source]})"
        )
    version = _written_version(root / "pyproject.toml", source)
    return Host(root, _supported(where, version, source), head_commit(root), source)


def cache_home() -> Path:
    """Where downloads are kept: $MUSUBI_EXT_CACHE, else $XDG_CACHE_HOME/musubi-ext, else ~/.cache/musubi-ext."""
    if own := os.environ.get("MUSUBI_EXT_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "musubi-ext"


def choice_file() -> Path:
    """The file that names the checkout in use: {"checkout": absolute path}. `musubi-ext host install` writes it."""
    return cache_home() / "host.json"


def chosen_checkout() -> Path | None:
    """The checkout that was installed last, or None. Raises UserError for a damaged choice file."""
    file = choice_file()
    if not file.is_file():
        return None
    try:
        return Path(json.loads(file.read_text(encoding="utf-8"))["checkout"]).resolve()
    except (ValueError, KeyError, TypeError) as error:
        expected = '{"checkout": "/path/of/musubi-tuner"}'
        raise UserError(f"{file}: expected {expected}, found something else ({INSTALL})") from error


def git(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run git; it asks no questions and heeds no repository of the environment. FileNotFoundError: there is no git."""
    # A hook of some repository exports GIT_DIR and others, and git would answer about that one.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    place = ["-C", str(folder)] if folder else []
    return subprocess.run(
        ["git", *place, *words], env={**own, "GIT_TERMINAL_PROMPT": "0"}, capture_output=True, text=True, check=False
    )


def head_commit(root: Path) -> str | None:
    """The commit checked out at `root`; None without a .git there, without git, or when git refuses to say."""
    if not (root / ".git").exists():  # else git would answer about a repository further up
        return None
    try:
        answer = git("rev-parse", "HEAD", folder=root)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _from_environment() -> Path | None:
    named = os.environ.get(HOME)
    return Path(named).expanduser().resolve() if named else None


def _importable() -> Path | None:
    """Root of the `musubi_tuner` that `import` would find; a bare folder of that name (no __init__.py) is none."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).resolve().parents[1]
    return folder.parent if folder.name == "src" and _is_checkout(folder.parent) else folder


def _is_checkout(root: Path) -> bool:
    source = root / "src" / PACKAGE / "wan_train_network.py"
    return source.is_file() and (root / "pyproject.toml").is_file()


def _written_version(file: Path, source: Source) -> str:
    try:
        return str(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected a version under [project], found none ({REMEDIES[source]})") from error


def _installed(root: Path) -> Host:
    """What pip put into `root`; pip records the commit of a `git+https://…` in direct_url.json (PEP 610)."""
    try:
        record = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        message = f"{root / PACKAGE}: expected a version, found neither pyproject.toml nor a record of pip"
        raise UserError(f"{message} ({REMEDIES['importable']})") from error
    origin = json.loads(record.read_text("direct_url.json") or "{}")
    version = _supported(str(root / PACKAGE), record.version, "importable")
    return Host(root, version, origin.get("vcs_info", {}).get("commit_id"), "importable")


def _supported(where: str, version: str, source: Source) -> str:
    if version not in SUPPORTED:
        raise UserError(f"{where}: expected musubi-tuner {RANGE}, found {version} ({REMEDIES[source]})")
    return version
