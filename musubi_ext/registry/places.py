"""Addresses that a store's entries give, taken apart before anything is asked for: only what we write is recognised."""

from __future__ import annotations

import re
from typing import Any

from musubi_ext.registry.evidence import PLACE_TAG

_PAIR = re.compile(r"runs:/([0-9a-f]{32})/(pair-[0-9a-f]{12}(?:-[0-9a-f]{12})?)")
_EVIDENCE = re.compile(r"runs:/([0-9a-f]{32})/(evidence/[A-Za-z0-9_-][A-Za-z0-9._-]{0,250})/evidence\.json")


def pair_place(version: Any) -> tuple[str, str] | None:
    """Run id and artifact folder that register_pair gave the version; None for any other source."""
    return _taken_apart(_PAIR, version.source)


def evidence_place(version: Any) -> tuple[str, str] | None:
    """Run id and artifact folder of the evidence that the version's tags name; None where they name none of ours."""
    return _taken_apart(_EVIDENCE, version.tags.get(PLACE_TAG))


def _taken_apart(pattern: re.Pattern[str], address: str | None) -> tuple[str, str] | None:
    match = pattern.fullmatch(address or "")
    return None if match is None or ".." in match[2] else (match[1], match[2])
