"""DESIGN.md's import rule, read from the syntax trees; a cheap `import musubi_ext`; nothing large in the repository."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "musubi_ext"
SERVERS = frozenset({"mlflow", "bentoml", "musubi_tuner"})
TOP = frozenset({"cli", "commands", "demo", "pipeline", "serving"})  # what starts the rest: nothing below may import it
CORE = TOP | {"hosts", "generation", "registry", "promotion", "wan_train_network"}
STARTERS = {"cli": set(), "commands": {"cli"}, "demo": {"cli"}}  # who may import each of them
LARGEST = 10_000_000  # bytes

# package: what it never imports of musubi_ext, and what it never imports of others
RULES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "schedule": (CORE | {"pocket"}, SERVERS),
    "orbits": (CORE, SERVERS),
    "adapters": (CORE | {"pocket"}, SERVERS),
    "motion": (CORE, SERVERS),
    "evaluation": (CORE, SERVERS),
    "pocket": (CORE, SERVERS),
    "hosts": (
        TOP | {"generation", "registry", "promotion", "evaluation", "wan_train_network"},
        SERVERS - {"musubi_tuner"},
    ),
    "generation": (TOP | {"hosts", "registry", "promotion", "evaluation", "wan_train_network"}, SERVERS),
    "registry": (TOP | {"hosts", "promotion", "wan_train_network"}, SERVERS - {"mlflow"}),
    "promotion": (TOP | {"hosts", "wan_train_network"}, SERVERS - {"mlflow"}),
}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported(source: Path) -> Iterator[str]:
    """Absolute names of every import of a file, wherever it stands: function bodies and type checking included."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"), str(source))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts(name: str) -> tuple[str, str]:
    """ "musubi_ext.orbits.clips" → ("musubi_ext", "orbits")."""
    head, _, rest = name.partition(".")
    return head, rest.partition(".")[0]


@pytest.mark.parametrize("package", RULES)
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    inner, outer = RULES[package]
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(PACKAGE / package)
        for name in imported(path)
        if parts(name)[0] in outer or (parts(name)[0] == "musubi_ext" and parts(name)[1] in inner)
    ]
    assert not broken


def test_nothing_imports_the_command_line_or_the_service() -> None:
    broken = []
    for path in modules(PACKAGE):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported(path):
            head, package = parts(name)
            allowed = own == package or own in STARTERS.get(package, set())
            if head == "serving" or (head == "musubi_ext" and package in STARTERS and not allowed):
                broken.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not broken


def test_every_package_is_under_a_rule() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= RULES.keys() | TOP


@pytest.mark.parametrize("module", ["musubi_ext", "musubi_ext.cli"])
def test_import_loads_no_framework(module: str) -> None:
    heavy = {"torch", "mlflow", "diffusers", "transformers", "av", "cv2", "numpy"}
    code = f"import sys, {module}; print(*({heavy!r} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == []


def test_import_takes_less_than_a_tenth_of_a_second() -> None:
    # Processor time: what other processes on the machine do does not count.
    code = "import time; a = time.process_time(); import musubi_ext; print(time.process_time() - a)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(5)]
    assert min(float(run.stdout) for run in runs) < 0.1


def test_no_tracked_file_is_large() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    assert [path for path in paths if path.is_file() and path.stat().st_size > LARGEST] == []
