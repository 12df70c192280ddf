"""One request, one line of the log: BentoML writes paths as they come, and %0A in one is a line end by then."""

from __future__ import annotations

import logging

LOGGERS = ("bentoml.access",)


class OneLine(logging.Filter):
    """Escapes what is not printable in a record's texts."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; the record is changed."""
        if isinstance(record.args, tuple):
            record.args = tuple(_shown(value) if isinstance(value, str) else value for value in record.args)
        return True


_ONE_LINE = OneLine()


def keep_to_one_line() -> None:
    """Of the logs that show what clients send; safe to repeat."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_ONE_LINE)


def _shown(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
