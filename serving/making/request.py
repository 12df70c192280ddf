"""One job as it was asked for: what came over the wire, checked, with the pictures decoded once and kept as pixels.

    request = JobRequest.parse(fields, files, config.limits)     # raises UserError with every mistake
    request.save(folder); JobRequest.load(folder)                # request.json, first_frame.bmp, last_frame.bmp

Field names are those of vLLM-Omni and SGLang, ours beside them. What is left open (None) is settled by the version that
makes the video: `generation(defaults)`, where `defaults` are musubi_ext.generation.pair.defaults of it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from musubi_ext.errors import Problems, UserError
from musubi_ext.generation.images import fingerprint
from musubi_ext.generation.request import GenerationRequest, nearest_frames
from musubi_ext.storage import atomic_path, write_json
from serving.config import Limits
from serving.making.fields import check_names, check_values, picture, read_fields

_RENAMED = {  # ours: theirs
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "guidance_2": "guidance_scale_2",
    "shift": "flow_shift",
    "fps": "fps",
    "size": "size",
    "strength_high": "strength_high",
    "strength_low": "strength_low",
}


@dataclass(frozen=True)
class JobRequest:
    """A request whose fields are each in range. `pair`: "" (what is live), NAME@ALIAS, NAME/3, or "none" (base alone).

    `size` is (width, height); `seconds` is settled into frames once the frame rate is known. `seed` is drawn when none
    is given, so that the request says all of what was done.
    """

    prompt: str
    first_frame: Image.Image = field(compare=False, repr=False)
    last_frame: Image.Image | None = field(default=None, compare=False, repr=False)
    negative_prompt: str = ""
    size: tuple[int, int] | None = None
    num_frames: int | None = None
    seconds: float | None = None
    fps: float | None = None
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    boundary_ratio: float | None = None
    flow_shift: float | None = None
    pair: str = ""
    strength_high: float | None = None
    strength_low: float | None = None
    best_of: int = 1
    rank_by: str = "drift"
    model: str = ""  # as given: whoever knows the models checks it

    @classmethod
    def parse(
        cls, given: Mapping[str, Any], files: Mapping[str, bytes | Image.Image], limits: Limits | None = None
    ) -> JobRequest:
        """The request of these form fields (texts, or JSON's own values) and uploaded pictures.

        Empty texts count as not given. Raises UserError with all problems: unknown names, values out of range or
        beyond the limits, pictures that are none.
        """
        limits, problems = limits or Limits(), Problems()
        fields_given = {name: value for name, value in given.items() if value not in (None, "")}
        check_names(fields_given, files, problems)
        values = read_fields(fields_given, limits, problems)
        check_values(values, limits, problems)
        first = picture("first_frame", files.get("first_frame", files.get("input_reference")), limits, problems)
        last = picture("last_frame", files.get("last_frame"), limits, problems)
        if "first_frame" not in files and "input_reference" not in files:
            problems.add("first_frame", "is missing", "the picture that the video starts from: PNG, JPEG or WebP")
        problems.raise_if_any()
        assert first is not None
        values.setdefault("seed", secrets.randbelow(2**31))
        known = {name: value for name, value in values.items() if value is not None}
        return cls(first_frame=first, last_frame=last, **known)

    def generation(self, defaults: Mapping[str, Any]) -> GenerationRequest:
        """The request with everything settled: by the request, else by `defaults`. Raises UserError with all problems.

        A guidance given for the high-noise expert alone is both experts', as diffusers has it.
        """
        settings = {ours: getattr(self, theirs) for ours, theirs in _RENAMED.items()}
        settings = dict(defaults) | {name: value for name, value in settings.items() if value is not None}
        if self.guidance_scale is not None and self.guidance_scale_2 is None:
            settings["guidance_2"] = self.guidance_scale
        if self.seconds is not None:
            settings["frames"] = nearest_frames(round(self.seconds * settings["fps"]))
        return GenerationRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            first=self.first_frame,
            last=self.last_frame,
            seed=self.seed,
            **settings,
        )

    def record(self) -> dict[str, Any]:
        """The request as plain JSON, each picture as the SHA-256 of its pixels: the same record, the same video."""
        value = {item.name: getattr(self, item.name) for item in fields(self)}
        value["first_frame"] = fingerprint(self.first_frame)
        value["last_frame"] = None if self.last_frame is None else fingerprint(self.last_frame)
        value["size"] = None if self.size is None else list(self.size)
        return value

    def save(self, folder: Path | str) -> None:
        """Write the request and its pictures to `folder`, each whole or not at all, the request last."""
        self.save_pictures(folder)
        write_json(Path(folder) / "request.json", self.record())

    def save_pictures(self, folder: Path | str) -> None:
        """Write the pictures alone, for who keeps `record` elsewhere.

        As BMP: a client waits for this, and a PNG of 1280×720 takes 90 ms where the bare pixels take 4.
        """
        for name in ("first_frame", "last_frame"):
            if (picture := getattr(self, name)) is not None:
                with atomic_path(Path(folder) / f"{name}.bmp") as path:
                    picture.save(path)

    @classmethod
    def load(cls, folder: Path | str, record: Mapping[str, Any] | None = None) -> JobRequest:
        """What `save` wrote, or `save_pictures` beside `record`.

        Raises UserError when a file is missing, or a picture is not the one that was saved.
        """
        try:
            record = json.loads((Path(folder) / "request.json").read_bytes()) if record is None else dict(record)
            for name in ("first_frame", "last_frame"):
                if record[name] is not None:
                    expected = record[name]
                    with Image.open(Path(folder) / f"{name}.bmp", formats=("BMP",)) as file:
                        record[name] = file.convert("RGB")
                    if fingerprint(record[name]) != expected:
                        raise UserError(f"{name}: the stored picture is not the one that was accepted")
        except (OSError, ValueError, KeyError) as error:
            raise UserError("the stored request cannot be read") from error
        record["size"] = None if record["size"] is None else tuple(record["size"])
        return cls(**record)


def check_cost(request: GenerationRequest, best_of: int, limits: Limits) -> None:
    """Raise UserError when the settled request costs more than one may: nothing is allocated before this."""
    problems = Problems()
    width, height = request.size
    most = {
        "size": (width * height, limits.frame_pixels, "pixels of a frame"),
        "num_frames": (request.frames, limits.frames, "frames"),
        "num_inference_steps": (request.steps, limits.steps, "steps"),
        "best_of": (best_of, limits.best_of, "candidates"),
        "size and num_frames": (request.frames * width * height, limits.volume, "pixels of all frames"),
    }
    for name, (found, limit, what) in most.items():
        if found > limit:
            problems.add(name, f"{found:,} {what}, at most {limit:,}")
    problems.raise_if_any()
