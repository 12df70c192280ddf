"""Upstream's sample-prompt files, read strictly: every mistake of a file at once, before a training begins.

The three forms of `musubi_tuner/training/sampling_prompts.py` (`load_prompts`), as docs/sampling_during_training.md has
them:

    # prompts.txt: one prompt a line
    red car, camera circles right to left --i car.png --w 64 --h 64 --f 17 --d 1 --s 12 --fs 5 --l 1

    [prompt]                # prompts.toml: what all prompts share,
    width = 64
    [[prompt.subset]]       # then a table for each
    prompt = "red car, camera circles right to left"
    image_path = "car.png"

    [{"prompt": "red car", "image_path": "car.png"}, "a line as in .txt"]        (prompts.json)

Upstream passes over what it cannot read, and renders something else; here each such thing is a problem.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toml

from musubi_ext.errors import Problems, UserError
from musubi_ext.generation.request import GenerationRequest

SEED = 0  # of a prompt that gives none

_KEYS = {  # upstream's key: (its flag in a line, our field, type)
    "width": ("w", "width", int),
    "height": ("h", "height", int),
    "frame_count": ("f", "frames", int),
    "seed": ("d", "seed", int),
    "sample_steps": ("s", "steps", int),
    "discrete_flow_shift": ("fs", "shift", float),
    "cfg_scale": ("l", "cfg", float),
    "negative_prompt": ("n", "negative_prompt", str),
    "image_path": ("i", "image", str),
    "end_image_path": ("ei", "end_image", str),
    "prompt": ("", "prompt", str),
    "guidance_scale": ("g", "", float),  # embedded guidance, which Wan has not: upstream reads and ignores it
}
_FLAGS = {flag: key for key, (flag, _, _) in _KEYS.items() if flag}
_OTHER = {"cn": "control_video_path", "ci": "control_image_path", "of": "one_frame"}  # of other models than these
_NAMES = {  # what GenerationRequest calls it: (key, flag)
    "size": ("width, height", "--w, --h"),
    "frames": ("frame_count", "--f"),
    "seed": ("seed", "--d"),
    "steps": ("sample_steps", "--s"),
    "shift": ("discrete_flow_shift", "--fs"),
    "guidance": ("cfg_scale", "--l"),
    "guidance_2": ("", ""),  # always the same number as guidance
    "negative_prompt": ("negative_prompt", "--n"),
    "first": ("image_path", "--i"),
    "last": ("end_image_path", "--ei"),
}
_SUBSET = re.compile(r"^[ \t]*\[\[\s*prompt\s*\.\s*subset\s*\]\]", re.MULTILINE)


@dataclass(frozen=True)
class SamplePrompt:
    """One preview to make. Defaults are upstream's (`NetworkTrainer.sample_image_inference`).

    The seed is the exception: upstream draws another one each time, but previews are looked at side by side across
    epochs, so a prompt without one gets seed 0. `cfg` None leaves each expert the scale of its model's configuration;
    the negative prompt takes part where the scale is above 1, and None is the model's own.
    """

    prompt: str
    image: Path  # first frame; relative to the working directory, as upstream opens it
    end_image: Path | None = None  # last frame
    width: int = 256  # pixels, divisible by 16
    height: int = 256
    frames: int = 1  # 4n + 1
    seed: int = SEED
    steps: int = 20
    shift: float = 14.5  # of the flow schedule
    cfg: float | None = None  # classifier-free guidance scale of both experts; 1 is none
    negative_prompt: str | None = None

    def request(self, cfg: float, fps: float) -> GenerationRequest:
        """The request for this preview; `cfg` is used where the prompt gives none. Raises UserError."""
        scale = cfg if self.cfg is None else self.cfg
        return GenerationRequest(
            prompt=self.prompt,
            first=self.image,
            last=self.end_image,
            size=(self.width, self.height),
            frames=self.frames,
            steps=self.steps,
            seed=self.seed,
            shift=self.shift,
            guidance=scale,
            guidance_2=scale,
            negative_prompt="" if self.negative_prompt is None or scale == 1 else self.negative_prompt,
            fps=fps,
        )


@dataclass(frozen=True)
class _Entry:
    """One prompt as it stands in the file."""

    where: str  # "prompts.txt line 3"
    line: bool  # written with flags
    values: Mapping[str, Any]  # by upstream's keys


def read_sample_prompts(path: Path | str) -> tuple[SamplePrompt, ...]:
    """The prompts of a .txt, .toml or .json file, in its order; their images are opened to see that they can be.

    Raises UserError with every problem found: file, line (.txt and .toml) or number of the prompt, key, what was
    expected and what was found.
    """
    path = Path(path)
    problems = Problems()
    entries = list(_entries(path, _read(path), problems))
    prompts = [_build(entry, problems) for entry in entries]
    if not entries and not problems.found:
        problems.add(path, "expected at least one prompt, found none")
    problems.raise_if_any()
    return tuple(prompt for prompt in prompts if prompt is not None)


def _read(path: Path) -> str:
    if path.suffix not in (".txt", ".toml", ".json"):
        raise UserError(
            f"{path}: expected sample prompts in a .txt, .toml or .json file, found {path.suffix or 'none'}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: expected sample prompts, found no readable file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text: {error}") from error


def _entries(path: Path, text: str, problems: Problems) -> Iterator[_Entry]:
    if path.suffix == ".txt":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip() and line[0] != "#":
                yield _parse_line(f"{path} line {number}", line.strip(), problems)
    elif path.suffix == ".toml":
        yield from _toml_entries(path, text, problems)
    else:
        yield from _json_entries(path, text, problems)


def _parse_line(where: str, line: str, problems: Problems) -> _Entry:
    """Prompt, then flags: split at " --" as upstream splits it."""
    prompt, *parts = line.split(" --")
    values: dict[str, Any] = {"prompt": prompt}
    for part in parts:
        name, _, value = part.partition(" ")
        flag = name.lower()
        key = _FLAGS.get(flag)
        if key is None:
            problems.add(f"{where} --{name}", *_unknown(flag in _OTHER, [f"--{known}" for known in _FLAGS]))
        elif key in values:
            problems.add(f"{where} --{name}", "given twice, expected once")
        else:
            values[key] = _number(value.strip(), _KEYS[key][2])
    return _Entry(where, True, values)


def _number(text: str, kind: type) -> Any:
    """The number that the text says; other text stays as it is, for the check to refuse."""
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        return text


def _toml_entries(path: Path, text: str, problems: Problems) -> Iterator[_Entry]:
    try:
        document = toml.loads(text)
    except (ValueError, IndexError) as error:  # toml 0.10 lets an IndexError out of some malformed lines
        raise UserError(f"{path}: not valid TOML: {error}") from error
    table = document.get("prompt")
    subsets = table.get("subset") if isinstance(table, dict) else None
    if not isinstance(table, dict) or not isinstance(subsets, list):
        raise UserError(f"{path}: expected a [prompt] table and a [[prompt.subset]] table for each prompt, found none")
    shared = {key: value for key, value in table.items() if key != "subset"}
    lines = [text.count("\n", 0, match.start()) + 1 for match in _SUBSET.finditer(text)]
    for index, subset in enumerate(subsets):
        where = f"{path} line {lines[index]}" if len(lines) == len(subsets) else f"{path} prompt {index + 1}"
        for key in sorted(shared.keys() & subset.keys()):
            problems.add(f"{where} {key}", "stands in [prompt] too, expected it in one of the two")
        yield _Entry(where, False, {**shared, **subset})


def _json_entries(path: Path, text: str, problems: Problems) -> Iterator[_Entry]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(document, list):
        raise UserError(f"{path}: expected a list of prompts, found {type(document).__name__}")
    for number, value in enumerate(document, start=1):
        where = f"{path} prompt {number}"
        if isinstance(value, str):
            yield _parse_line(where, value, problems)
        elif isinstance(value, dict):
            yield _Entry(where, False, value)
        else:
            problems.add(where, f"expected a table or a line of text, found {value!r}")


def _unknown(other_model: bool, known: list[str]) -> tuple[str, str]:
    """What to say of a key that means nothing here."""
    if other_model:
        return "not for Wan2.2 image-to-video", "leave it out"
    return "unknown", f"expected one of {', '.join(known)}"


def _build(entry: _Entry, problems: Problems) -> SamplePrompt | None:
    before = len(problems.found)
    for key in sorted(entry.values.keys() - _KEYS.keys()):
        problems.add(f"{entry.where} {key}", *_unknown(key in _OTHER.values(), list(_KEYS)))
    for key in ("image_path", "end_image_path"):
        value = entry.values.get(key, "absent" if key == "end_image_path" else None)
        if not isinstance(value, str) or not value:
            frame = "first" if key == "image_path" else "last"
            problems.add(f"{entry.where} {_name(key, entry)}", f"expected the {frame} frame's file, found {value!r}")
    if len(problems.found) > before:
        return None
    fields = {"prompt": ""} | {_KEYS[key][1]: value for key, value in entry.values.items() if _KEYS[key][1]}
    fields |= {name: Path(fields[name]) for name in ("image", "end_image") if name in fields}
    prompt = SamplePrompt(**fields)
    try:
        prompt.request(cfg=1.0, fps=16.0)  # every check that the rendering will make
    except UserError as error:
        problems.found.extend(filter(None, (_spell(entry, problem) for problem in error.problems)))
        return None
    return prompt


def _name(key: str, entry: _Entry) -> str:
    return f"--{_KEYS[key][0]}" if entry.line else key


def _spell(entry: _Entry, problem: str) -> str:
    """A request's problem, in the file's own words: "size: 60x64 …" → "prompts.txt line 3 --w, --h: 60x64 …"."""
    field, rest = re.split(r"(?=[: ])", problem, maxsplit=1)
    key, flag = _NAMES.get(field, (field, field))
    name = flag if entry.line else key
    return f"{entry.where} {name}{rest}" if name else ""
