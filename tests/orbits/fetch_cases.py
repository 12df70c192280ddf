"""What the tests of fetching share: files of a hub, a fetch in one line, what is on disk after it."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from local_hub import REPOSITORY

from musubi_ext.cli import main
from musubi_ext.orbits.fetch.hub import Patience
from musubi_ext.orbits.fetch.plan import Plan
from musubi_ext.orbits.fetch.run import Outcome, Request, fetch

BYTES = random.Random(0)
FILES = {
    "README.md": b"---\nlicense: cc-by-4.0\n---\n",
    "train/a b.mp4": BYTES.randbytes(300_000),
    "train/a b.txt": b"eye level, Circle Right->Left, a gray SUV",
    "train/ç.mp4": BYTES.randbytes(200_000),
    "empty.txt": b"",
}
QUICK = Patience(attempts=3, first=0.01, longest=0.5, timeout=5.0)


class Watch:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.last: dict[str, tuple[int, int]] = {}
        self.notices: list[str] = []

    def found(self, plan: Plan) -> None:
        self.plan = plan

    def progress(self, stage: str, done: int, total: int) -> None:
        self.last[stage] = (done, total)

    def notice(self, text: str) -> None:
        self.notices.append(text)


def get(folder: Path, watch: Watch | None = None, dry_run: bool = False, **options: object) -> Outcome:
    request = Request(REPOSITORY, folder, **{"patience": QUICK, "workers": 2, **options})  # type: ignore[arg-type]
    return fetch(request, watch or Watch(), dry_run=dry_run)


def command(folder: Path, *words: str) -> int:
    return main(["data", "fetch", REPOSITORY, "--to", str(folder), *words])


def contents(folder: Path) -> dict[str, bytes]:
    """What the folder holds under final names, the record aside."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in paths.items() if name.split("/")[0] not in ("fetch.json", ".fetch")
    }


def record(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "fetch.json").read_text(encoding="utf-8")))


def parts(folder: Path) -> list[int]:
    return [part.stat().st_size for part in (folder / ".fetch").glob("*.part")]


def wait_for(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)
