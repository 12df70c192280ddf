"""What a user did wrong, said once and completely: every problem of an input is collected, then raised together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """One or more mistakes in what the user gave us. The command line prints them and exits with status 2."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass
class Problems:
    """Collects mistakes while an input is read; `raise_if_any` reports them all at once."""

    found: list[str] = field(default_factory=list)

    def add(self, where: object, message: str, fix: str = "") -> None:
        """Record one mistake. `where` names the file (and key), `message` says expected and found, `fix` the remedy."""
        self.found.append(f"{where}: {message}" + (f" ({fix})" if fix else ""))

    def collect(self, action: Callable[[], T]) -> T | None:
        """What `action` returns; None, with its problems recorded, when it raises UserError."""
        try:
            return action()
        except UserError as error:
            self.found += error.problems
            return None

    def raise_if_any(self) -> None:
        """Raises UserError listing every recorded problem, in the order found."""
        if self.found:
            raise UserError(self.found)


def shown(path: Path | str) -> str:
    """`path` on one line: what does not print (newlines, escape codes, bytes that are no UTF-8) is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in str(path))
