"""File names of a pair: NAME_h.safetensors and NAME_l.safetensors, one per expert."""

from __future__ import annotations

from musubi_ext.schedule.experts import Expert

_FORBIDDEN = frozenset('/\\:*?"<>|')  # on any file system an adapter may travel to
_LONGEST = 100  # characters, so that NAME_h-000100.safetensors still fits everywhere


def name_problem(name: str | None) -> str | None:
    """What is wrong with the name of a pair, or None."""
    if not name:
        return "missing: the pair's files are named NAME_h and NAME_l"
    if name.startswith(".") or set(name) & _FORBIDDEN or not name.isprintable() or len(name) > _LONGEST:
        return f"{name[:_LONGEST]!r} is not a file name (letters, digits, - and _, at most {_LONGEST} characters)"
    return None


def output_name(name: str, expert: Expert) -> str:
    """NAME_h or NAME_l: an expert's adapter file, without suffix."""
    return f"{name}_{expert.suffix}"
