"""`[suite]` of a gate TOML: the scenes on which candidate and champion are filmed, and how they are measured.

Either rendered held-out scenes from fixed seeds, whose truth is known exactly, or prompts with pictures. Each scene is
filmed once for each of `seeds`; scene number i has noise of seed + i.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import Problems
from musubi_ext.evaluation.metric_limits import near
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.registry.suite_prompts import Prompt, read_prompts
from musubi_ext.storage import sha256

if TYPE_CHECKING:
    from musubi_ext.orbits.scenes import Family

SHAPES: dict[str, Family] = {"known": "train", "unseen": "heldout"}  # kinds of rendered subjects
MASKS = ("color", "flow", "sam2")
PROFILES = ("exact", "fast")
ALL = "all"
_COUNTS = {"scenes": (1, 10_000), "scene_seed": (0, 2**31 - 1), "steps": (1, 1000), "frames": (5, 1000)}
_NUMBERS = {"shift": (0.1, 100.0), "guidance": (1.0, 30.0), "guidance_2": (1.0, 30.0), "fps": (1.0, 120.0)}
_RENDERED = ("scenes", "scene_seed", "shapes")
_KEYS = (*_COUNTS, *_NUMBERS, "shapes", "prompts", "seeds", "size", "metrics", "masks", "profile", "models")
_MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Scene:
    """One video to be made. `record` is what it is known by: equal for equal scenes, on any machine.

    `number` is that of the rendered scene (its subject and path), None where there are a `prompt` and pictures.
    """

    name: str
    seed: int
    record: Mapping[str, Any]
    number: int | None = None
    prompt: Prompt | None = None


@dataclass(frozen=True)
class Suite:
    """`settings` are fields of a GenerationRequest; what they leave open each pair's manifest says.

    `metrics` are names, or (ALL,). `models` is the folder of learned weights.
    """

    scenes: int = 12
    scene_seed: int = 900_000
    shapes: str = "known"
    prompts: tuple[Prompt, ...] = ()
    seeds: tuple[int, ...] = (42,)
    size: tuple[int, int] = (64, 64)
    frames: int = 17
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = (ALL,)
    masks: str = "color"
    profile: str = "exact"
    models: Path | None = None

    @property
    def rendered(self) -> bool:
        """Whether scenes are rendered, so that their truth is known."""
        return not self.prompts

    @property
    def files(self) -> list[Path]:
        """Every file that the prompts name, and the one that they stand in."""
        named = [path for prompt in self.prompts for path in (prompt.source, prompt.first, prompt.last)]
        return sorted({path for path in named if path is not None})

    @property
    def count(self) -> int:
        """Different scenes, however often each is filmed."""
        return self.scenes if self.rendered else len({(p.prompt, p.first, p.last) for p in self.prompts})

    def shots(self) -> list[Scene]:
        """Every video of one model, in order. Reads the pictures, for their hashes."""
        found = []
        for index in range(self.scenes if self.rendered else len(self.prompts)):
            for seed in self.seeds:
                found.append(self._rendered(index, seed) if self.rendered else self._asked(index, seed))
        return found

    def record(self) -> dict[str, Any]:
        """Everything that decides what is measured, as JSON, without a path."""
        how = {"size": list(self.size), "frames": self.frames, **self.settings}
        measured = {"metrics": list(self.metrics), "masks": self.masks, "profile": self.profile}
        return {"scenes": [dict(shot.record) for shot in self.shots()], "settings": how, **measured}

    def digest(self) -> str:
        """SHA-256 of `record`."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()

    def _rendered(self, index: int, seed: int) -> Scene:
        number, noise = self.scene_seed + index, seed + index
        way = "rl" if index % 2 == 0 else "lr"  # of the camera, in turn: musubi_ext.orbits.render.write_dataset
        name = f"orbit_{SHAPES[self.shapes]}_{number:06d}_{way}" + self._suffix(seed)
        return Scene(name, noise, {"rendered": number, "shapes": self.shapes, "way": way, "seed": noise}, number)

    def _asked(self, index: int, seed: int) -> Scene:
        prompt = self.prompts[index]
        noise = seed + index if prompt.seed is None else prompt.seed
        pictures = {"first": sha256(prompt.first), "last": None if prompt.last is None else sha256(prompt.last)}
        record = {"prompt": prompt.prompt, **pictures, "seed": noise}
        return Scene(f"scene_{index:03d}" + self._suffix(seed), noise, record, prompt=prompt)

    def _suffix(self, seed: int) -> str:
        return f"_s{seed}" if len(self.seeds) > 1 else ""


def parse_suite(table: Mapping[str, Any], where: Path, problems: Problems) -> Suite:
    """The suite of a table in the file `where`; what is wrong is added to `problems`."""
    found: dict[str, Any] = {"settings": {}}
    for key in table.keys() - set(_KEYS):
        problems.add(where, f"suite.{key}: unknown key", near(key, _KEYS))
    for key, (low, high) in _COUNTS.items():
        if key in table and _number(table, key, int, low, high, where, problems):
            (found["settings"] if key == "steps" else found)[key] = table[key]
    for key, (least, most) in _NUMBERS.items():
        if key in table and _number(table, key, (int, float), least, most, where, problems):
            found["settings"][key] = float(table[key])
    for key, known in (("shapes", tuple(SHAPES)), ("masks", MASKS), ("profile", PROFILES)):
        if key in table:
            if table[key] not in known:
                problems.add(where, f"suite.{key}: expected one of {', '.join(known)}, found {table[key]!r}")
            else:
                found[key] = table[key]
    found |= _lists(table, where, problems)
    if "prompts" in table:
        found["prompts"] = read_prompts(table["prompts"], where, problems)
        _check_prompted(table, found, where, problems)
    if problems.found:
        return Suite()
    return Suite(**found)


def _lists(table: Mapping[str, Any], where: Path, problems: Problems) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "size" in table:
        size = table["size"]
        if not (
            isinstance(size, list)
            and len(size) == 2
            and all(_whole(side) and side >= 16 and side % 16 == 0 for side in size)
        ):
            problems.add(where, f"suite.size: expected [width, height], multiples of 16, found {size!r}")
        else:
            found["size"] = tuple(size)
    if "frames" in table and _whole(table["frames"]) and table["frames"] % 4 != 1:
        problems.add(where, f"suite.frames: expected 4n+1, found {table['frames']}")
    if "seeds" in table:
        seeds = table["seeds"]
        right = isinstance(seeds, list) and seeds and all(_whole(seed) and seed <= _MOST_SEED for seed in seeds)
        if not right or len(set(seeds)) < len(seeds):
            problems.add(where, f"suite.seeds: expected a list of different whole numbers, found {seeds!r}")
        else:
            found["seeds"] = tuple(seeds)
    if "metrics" in table:
        found["metrics"] = _metrics(table["metrics"], where, problems)
    if "models" in table:
        folder = where.parent / str(table["models"])
        if not folder.is_dir():
            problems.add(where, f"suite.models: expected a folder of learned weights, found none at {folder}")
        found["models"] = folder
    return found


def _metrics(names: object, where: Path, problems: Problems) -> tuple[str, ...]:
    if names == ALL:
        return (ALL,)
    if not isinstance(names, list) or not names:
        problems.add(where, f'suite.metrics: expected a list of names or "{ALL}", found {names!r}')
        return ()
    for name in names:
        if name not in METRICS:
            problems.add(where, f"suite.metrics: {name!r} is not a metric", near(str(name), METRICS))
    return tuple(map(str, names))


def _check_prompted(table: Mapping[str, Any], found: dict[str, Any], where: Path, problems: Problems) -> None:
    for key in _RENDERED:
        if key in table:
            problems.add(where, f"suite.{key}: for rendered scenes, but there are prompts", "remove one of them")
    for key in ("size", "frames"):
        if key not in table:
            problems.add(where, f"suite.{key}: missing", "prompts need it: the default is the pocket's")
    if table.get("masks", "flow") == "color":
        problems.add(where, "suite.masks: color follows the subject of a rendered scene", 'use "flow" or "sam2"')
    found.setdefault("masks", "flow")


def _number(
    table: Mapping[str, Any], key: str, kind: Any, low: float, high: float, where: Path, problems: Problems
) -> bool:
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        word = "a whole number" if kind is int else "a number"
        problems.add(where, f"suite.{key}: expected {word} from {low:g} to {high:g}, found {value!r}")
        return False
    return True


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
