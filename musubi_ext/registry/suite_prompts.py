"""The scenes of a suite that are asked for: a prompt, its first frame, perhaps its last frame and its own seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toml

from musubi_ext.errors import Problems
from musubi_ext.evaluation.metric_limits import near

MOST = 10_000
_KEYS = ("prompt", "first", "last", "seed")


@dataclass(frozen=True)
class Prompt:
    """A sentence and the pictures it goes with; `seed`: of the noise, None for the suite's; `source`: its file."""

    prompt: str
    first: Path
    source: Path
    last: Path | None = None
    seed: int | None = None


def read_prompts(value: object, where: Path, problems: Problems) -> tuple[Prompt, ...]:
    """From a list of tables in the TOML `where`, or the name of a file beside it: TOML or JSON with a list `prompts`.

    Pictures are relative to the file that names them. What is wrong is added to `problems`.
    """
    file = where
    if isinstance(value, str):
        file = where.parent / value
        value = _from_file(file, problems)
        if value is None:
            return ()
    if not isinstance(value, list) or not 1 <= len(value) <= MOST:
        expected = f"a list of 1 to {MOST} tables, or the name of a file with one"
        problems.add(file, f"prompts: expected {expected}, found {type(value).__name__}")
        return ()
    found = [_prompt(entry, f"prompts[{index}]", file, problems) for index, entry in enumerate(value)]
    return tuple(prompt for prompt in found if prompt is not None)


def _from_file(file: Path, problems: Problems) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else toml.loads(text)
    except OSError as error:
        problems.add(file, f"prompts: cannot be read: {error.strerror}", "the name is relative to the gate's TOML")
    except (ValueError, IndexError) as error:  # toml 0.10 lets an IndexError out of some malformed lines
        problems.add(file, f"prompts: neither TOML nor, with the ending .json, JSON: {error}")
    else:
        return content.get("prompts") if isinstance(content, Mapping) else content
    return None


def _prompt(entry: object, place: str, file: Path, problems: Problems) -> Prompt | None:
    if not isinstance(entry, Mapping):
        problems.add(file, f"{place}: expected a table with prompt and first, found {entry!r}")
        return None
    before = len(problems.found)
    for key in entry.keys() - set(_KEYS):
        problems.add(file, f"{place}.{key}: unknown key", near(str(key), _KEYS))
    if not isinstance(entry.get("prompt"), str) or not str(entry["prompt"]).strip():
        problems.add(file, f"{place}.prompt: expected a sentence, found {entry.get('prompt')!r}")
    pictures = {key: _picture(entry, key, place, file, problems) for key in ("first", "last")}
    seed = entry.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        problems.add(file, f"{place}.seed: expected a whole number of at least 0, found {seed!r}")
    if len(problems.found) > before:
        return None
    assert pictures["first"] is not None
    return Prompt(str(entry["prompt"]), pictures["first"], file, pictures["last"], seed)


def _picture(entry: Mapping[str, Any], key: str, place: str, file: Path, problems: Problems) -> Path | None:
    name = entry.get(key)
    if name is None:
        if key == "first":
            problems.add(file, f"{place}.first: missing", "the picture that the video starts from")
        return None
    if not isinstance(name, str) or not (path := file.parent / name).is_file():
        problems.add(file, f"{place}.{key}: expected a picture on this disk, found none at {name!r}")
        return None
    return path
