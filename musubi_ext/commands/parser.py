"""argparse for people: every unknown flag named with the nearest known one, all mistakes of a line at once."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from musubi_ext.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError where argparse would end the process, and accepts no abbreviation."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self.verbs: Any = None

    def add_subparsers(self, **options: Any) -> Any:
        """As argparse's, remembered: a word that is no verb is then refused with the nearest one."""
        self.verbs = super().add_subparsers(**options)
        return self.verbs

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Nothing unknown is left over. Raises UserError with every unknown flag, else with argparse's complaint."""
        words = list(args or ())
        problems = self._unknown_verb(words) if self.verbs else self._unknown_flags(words)
        left: list[str] = []
        try:
            namespace, left = super().parse_known_args(words, namespace)
        except UserError as error:
            raise UserError(problems or error.problems) from error
        problems += [
            f"{self.prog}: {word}: belongs to no flag (quote values with spaces)" for word in left if word[:1] != "-"
        ]
        problems += [
            f"{self.prog}: {word}: unknown flag ({self._near(word)})" for word in left if re.match(r"-\w", word)
        ]
        if problems:
            raise UserError(problems)
        return namespace, []

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UserError(f"{self.prog}: {message}")

    def _unknown_verb(self, words: Sequence[str]) -> list[str]:
        verb = next((word for word in words if not word.startswith("-")), None)
        if verb is None or verb in self.verbs.choices:
            return []
        return [f"{self.prog}: {verb}: unknown verb ({nearest(verb, self.verbs.choices)})"]

    def _unknown_flags(self, words: Sequence[str]) -> list[str]:
        before = words[: words.index("--")] if "--" in words else words
        flags = [word.partition("=")[0] for word in before if word.startswith("--")]
        return [
            f"{self.prog}: {flag}: unknown flag ({self._near(flag)})"
            for flag in flags
            if flag not in self._option_string_actions
        ]

    def _near(self, flag: str) -> str:
        return nearest(flag, [known for known in self._option_string_actions if known.startswith("--")])


def nearest(word: str, known: Collection[str]) -> str:
    """ "did you mean --steps?", or all there is to choose from."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else "known: " + ", ".join(known)
