"""Circle-Rotate in Python: one picture, or two, and a sentence become a video. Load once, call many times.

from musubi_ext import CircleRotate

rotate = CircleRotate(pair="runs/demo/pair")
rotate("car.png", "red car, camera circles right to left").save("orbit.mp4")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from musubi_ext import __version__
from musubi_ext.adapters.pair import AdapterPair, remove
from musubi_ext.generation.images import ImageSource
from musubi_ext.generation.pair import ADAPTER, check_fits, defaults, open_pair, pair_record
from musubi_ext.generation.pipeline import (
    POCKET,
    flow_scheduler,
    load_pipeline,
    prompt_notes,
    resolve_base,
    to_uint8,
    token_limit,
)
from musubi_ext.generation.request import GenerationRequest
from musubi_ext.generation.video import Video

Progress: TypeAlias = Callable[[int, int], None]  # (denoising steps done, of how many)


class CircleRotate:
    """A Wan2.2 image-to-video pipeline, with or without a pair of adapters in its two experts.

    The same request on the same machine gives the same pixels, bit for bit. Calls from several threads wait for one
    another, since a diffusers pipeline serves one call at a time.
    """

    def __init__(
        self,
        base: Path | str = POCKET,
        pair: AdapterPair | Path | str | None = None,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """`base` is "pocket-i2v" or a local pipeline folder; `pair` an AdapterPair or its directory.

        Raises UserError for a base, pair or device that cannot be used.
        """
        self.base = str(base)
        self.pair: AdapterPair | None = None
        self._strengths = (1.0, 1.0)
        self._lock = threading.Lock()
        self._folder = resolve_base(base)
        loaded = open_pair(pair)
        if loaded is not None:
            check_fits(loaded, self.base, self._folder)  # before minutes of loading
        self.pipeline = load_pipeline(base, dtype, device)
        self.use(loaded)

    def use(self, pair: AdapterPair | Path | str | None) -> None:
        """Put another pair into the experts, or none. If it does not fit, UserError, and the base alone remains."""
        loaded = open_pair(pair)
        if loaded is not None:
            check_fits(loaded, self.base, self._folder)
        with self._lock:
            if self.pair is not None:
                remove(self.pipeline)
                self.pair = None
            if loaded is not None:
                loaded.apply(self.pipeline, adapter_name=ADAPTER)
                self.pair, self._strengths = loaded, (1.0, 1.0)

    def request(
        self, first: ImageSource, prompt: str, last: ImageSource | None = None, **settings: Any
    ) -> GenerationRequest:
        """A checked request; what `settings` leave open comes from the pair's manifest, then from the task's preset.

        `settings` are the fields of GenerationRequest. Raises UserError listing everything that is wrong.
        """
        known = defaults(self.base, self.pair) | settings
        return GenerationRequest(prompt=prompt, first=first, last=last, **known)

    def __call__(
        self,
        first: ImageSource,
        prompt: str,
        last: ImageSource | None = None,
        *,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Video:
        """Make one video; see `request` for what may be given. An exception raised by `progress` stops it at once."""
        return self.run(self.request(first, prompt, last, **settings), progress)

    def run(self, request: GenerationRequest, progress: Progress | None = None) -> Video:
        """Make the video of a checked request: uint8 frames (F, H, W, 3)."""
        started = time.perf_counter()
        with self._lock:
            self._set_strengths(request)
            frames = self._denoise(request, progress)
        seconds = time.perf_counter() - started
        notes = prompt_notes(self.pipeline, request.prompt, request.negative_prompt)
        return Video(frames, request.fps, request.record(), self.versions(), seconds, notes)

    def versions(self) -> dict[str, Any]:
        """What made a video: packages, base, device, precision, and the pair's name and SHA-256 per expert."""
        return {
            "musubi_ext": __version__,
            "diffusers": version("diffusers"),
            "torch": torch.__version__,
            "base": Path(self.base).name,
            "device": self.pipeline.device.type,
            "dtype": str(self.pipeline.transformer.dtype).removeprefix("torch."),
            "pair": None if self.pair is None else pair_record(self.pair.manifest),
        }

    def _set_strengths(self, request: GenerationRequest) -> None:
        wanted = (request.strength_high, request.strength_low)
        if self.pair is not None and wanted != self._strengths:
            self.pipeline.set_adapters(ADAPTER, {"transformer": wanted[0], "transformer_2": wanted[1]})
            self._strengths = wanted

    def _denoise(self, request: GenerationRequest, progress: Progress | None) -> np.ndarray:
        """One call of the pipeline. The noise is drawn on the CPU, so the seed means the same on every device."""
        pipeline = self.pipeline
        pipeline.scheduler = flow_scheduler(pipeline.scheduler.config, request.shift)
        try:
            output = pipeline(
                image=request.first_frame,
                last_image=request.last_frame,
                prompt=request.prompt,
                negative_prompt=request.negative_prompt or None,
                height=request.size[1],
                width=request.size[0],
                num_frames=request.frames,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance,  # high-noise expert
                guidance_scale_2=request.guidance_2,  # low-noise expert
                generator=torch.Generator("cpu").manual_seed(request.seed),
                max_sequence_length=token_limit(pipeline),
                callback_on_step_end=_reporter(request.steps, progress),
                output_type="np",
            )
        finally:
            pipeline.maybe_free_model_hooks()
        return to_uint8(output.frames[0])


def _reporter(steps: int, progress: Progress | None) -> Callable[..., dict[str, Any]] | None:
    """The pipeline's callback: it must return a dict, whatever it does."""
    if progress is None:
        return None

    def report(_pipeline: object, step: int, _timestep: object, _tensors: dict[str, Any]) -> dict[str, Any]:
        progress(step + 1, steps)
        return {}

    return report
