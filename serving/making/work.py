"""One job on its way through the stages: it tells every step, may stop at one, and goes on behind a finished stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from musubi_ext.generation.request import GenerationRequest
from musubi_ext.generation.video import Video
from musubi_ext.video import Frames
from serving.config import ServiceConfig
from serving.making import wan_stages
from serving.making.content_cache import ContentCache
from serving.making.previews import Previewer
from serving.making.request import JobRequest
from serving.making.stages import Meter, Stage, StageRecord, StageStore


class JobCancelledError(Exception):
    """The job was given up at a step's or a stage's end, because `cancelled` said so."""


@dataclass(frozen=True)
class Progress:
    """Where a job is: the stage, and how many denoising steps (of every candidate) are done."""

    stage: str
    step: int
    steps: int
    candidate: int = 0
    candidates: int = 1
    preview: str = ""  # name of the newest picture of it, in the job's folder

    @property
    def fraction(self) -> float:
        """The share of denoising steps that are done, 0 to 1."""
        return self.step / self.steps


class Work:
    """One job under way: every candidate through the stages, each from its file when it was reached before."""

    def __init__(
        self,
        pipeline: Any,
        cache: ContentCache,
        config: ServiceConfig,
        job: JobRequest,
        request: GenerationRequest,
        key: str,
        on_step: Callable[[Progress], None],
        cancelled: Callable[[], bool],
        store: StageStore,
    ) -> None:
        self.job, self.request, self.store = job, request, store
        self._pipeline, self._cache, self._config = pipeline, cache, config
        self.records: list[StageRecord] = []
        self._key, self._on_step, self._cancelled = key, on_step, cancelled
        self._candidate = 0
        self._before = 0  # steps of the candidates before this one
        self._total = request.steps * job.best_of
        self._done = 0
        self._previews = Previewer(pipeline, store.folder, config.previews)

    @property
    def preview_seconds(self) -> float:
        """Spent on previews so far, by this process."""
        return self._previews.seconds

    def enter(self, stage: str) -> None:
        """Tell where the job is; raises JobCancelledError when nobody wants it any more."""
        candidate = self._candidate, self.job.best_of
        self._on_step(Progress(stage, self._done, self._total, *candidate, self._previews.latest))
        if self._cancelled():
            raise JobCancelledError

    def run(self, request: GenerationRequest, progress: Callable[[int, int], None] | None = None) -> Video:
        """One candidate's frames: generation.best_of asks for them seed by seed."""
        self._candidate = request.seed - self.request.seed
        boundary = self.job.boundary_ratio or self._pipeline.config.boundary_ratio
        settings = wan_stages.Settings(request, float(boundary), self._config.levers)
        frames = self._frames(settings)
        self._done = (self._candidate + 1) * request.steps
        return Video(frames, request.fps, request.record(), {}, 0.0)

    def _frames(self, settings: wan_stages.Settings) -> Frames:
        """From the last stage that is there to the frames; what a later stage no longer needs is deleted."""
        pipeline, candidate = self._pipeline, self._candidate
        reached = self.store.reached(self._key, candidate)
        self._before = self._done = candidate * settings.request.steps
        if reached == "decode" and (found := self._read("decode")) is not None:
            return found["frames"].numpy()
        latents = self._read("low") if reached == "low" else None
        if latents is None:
            encoded = self._stage("encode", lambda: wan_stages.encode(pipeline, settings, self._cache))
            high = self._denoise("high", "transformer", settings, encoded)
            self._done = self._before + wan_stages.steps_done(high)
            latents = self._denoise("low", "transformer_2", settings, {**encoded, **high})
            self.store.drop("encode", "high", candidate=candidate)
        decoded = self._stage(
            "decode", lambda: {"frames": torch.from_numpy(wan_stages.decode(pipeline, latents["latents"]))}
        )
        self.store.drop("low", candidate=candidate)
        return decoded["frames"].numpy()

    def _denoise(
        self, stage: Stage, component: str, settings: wan_stages.Settings, tensors: wan_stages.Tensors
    ) -> wan_stages.Tensors:
        def step_done(number: int) -> None:
            self._done = self._before + number
            self.enter(stage)

        def look(number: int, clean: Tensor) -> None:
            self._previews.look(self._before + number, clean)

        return self._stage(
            stage, lambda: wan_stages.denoise(self._pipeline, component, settings, tensors, step_done, look)
        )

    def _stage(self, stage: Stage, compute: Callable[[], wan_stages.Tensors]) -> wan_stages.Tensors:
        """A stage's tensors: from its file, or computed, measured and written to it."""
        if (found := self._read(stage)) is not None:
            return found
        self.enter(stage)
        meter, drawing = Meter(self._config.device), self._previews.seconds
        with meter.measured():
            made = compute()
        seconds = meter.seconds - (self._previews.seconds - drawing)  # those are a measure of their own
        record = StageRecord(stage, seconds, meter.peak_bytes, meter.memory, self._candidate)
        self.store.write(stage, self._key, made, record)
        self.records.append(record)
        return made

    def _read(self, stage: Stage) -> wan_stages.Tensors | None:
        found = self.store.read(stage, self._key, self._candidate)
        if found is None:
            return None
        self.records.append(found[1])
        return found[0]
