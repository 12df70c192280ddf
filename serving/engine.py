"""The engine: one pipeline on one device, one job at a time, stage by stage, from the request to a measured mp4.

    engine = Engine(ServiceConfig.load("service.toml"))
    done = engine.run(job, version=version, on_step=print, cancelled=lambda: False, stage_store=StageStore(folder))
    done.video            # FOLDER/video.mp4, whole; its comment names request, version and scores

Called again for the same folder it goes on behind the last finished stage, in this process or another, to the same
frames bit for bit. A request alone decides what is made: neither earlier jobs nor a failed one leave anything behind.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch

from musubi_ext import __version__
from musubi_ext.errors import UserError
from musubi_ext.generation.best_of import best_of
from musubi_ext.generation.pair import pair_record
from musubi_ext.generation.pipeline import prompt_notes
from musubi_ext.generation.request import GenerationRequest
from musubi_ext.ranking import ranking
from musubi_ext.storage import write_json
from musubi_ext.video import write_mp4
from serving.adapters_live import LiveAdapters
from serving.config import ServiceConfig
from serving.making import levers, previews
from serving.making.content_cache import ContentCache, content_key
from serving.making.measures import Results, measure
from serving.making.pair_slot import PairSlot
from serving.making.request import JobRequest, check_cost
from serving.making.stages import Meter, StageRecord, StageStore
from serving.making.work import JobCancelledError, Progress, Work
from serving.versions.version_ref import VersionRef

__all__ = ["Engine", "Finished", "JobCancelledError", "Progress"]

VIDEO, FINISHED = "video.mp4", "finished.json"


@dataclass(frozen=True)
class Finished:
    """A job's outcome. `results`: metric → result, as plain values; `version` made it.

    `settings` is the settled request, as it stands in the mp4's comment; `best_of` every candidate's score, or None.
    `preview_seconds` went into pictures on the way, and are in no stage's time.
    """

    video: Path
    version: VersionRef
    settings: dict[str, Any]
    versions: dict[str, Any]
    results: Results
    stages: tuple[StageRecord, ...]
    swap_seconds: float
    notes: tuple[str, ...] = ()
    best_of: dict[str, Any] | None = None
    preview_seconds: float = 0.0

    @property
    def files(self) -> dict[str, Path]:
        """The files by their variant's name."""
        return {"video": self.video}

    def record(self) -> dict[str, Any]:
        """Plain JSON values, the video by its name."""
        return asdict(self) | {"video": self.video.name}

    @classmethod
    def of(cls, value: dict[str, Any], folder: Path) -> Finished:
        """What `record` gave, for a job in `folder`."""
        records = tuple(StageRecord(**record) for record in value["stages"])
        ready = {"video": folder / value["video"], "version": VersionRef(**value["version"]), "stages": records}
        return cls(**value | ready | {"notes": tuple(value["notes"])})


class Engine:
    """Loads once, runs many jobs; `run` may be called from any thread, one at a time gets through."""

    def __init__(self, config: ServiceConfig, adapters: LiveAdapters | None = None) -> None:
        """Raises UserError for a base, device, lever or pair that cannot be used."""
        self.config = config
        self.adapters = adapters or LiveAdapters(config)
        if config.threads:
            torch.set_num_threads(config.threads)
        dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
        self.pipeline = levers.load(config.base, dtype, config.device, config.levers, config.experts.files)
        self.cache = ContentCache(config.cache.bytes)
        self._slot = PairSlot(self.pipeline)
        self._lock = threading.Lock()
        self._identity = self._describe()

    def settle(self, job: JobRequest, version: VersionRef) -> GenerationRequest:
        """The job with all its settings. Raises UserError for what does not go together, or costs too much."""
        request = job.generation(self.adapters.defaults(version))
        check_cost(request, job.best_of, self.config.limits)
        return request

    def run(
        self,
        job: JobRequest,
        *,
        version: VersionRef,
        on_step: Callable[[Progress], None],
        cancelled: Callable[[], bool],
        stage_store: StageStore,
    ) -> Finished:
        """Make the job's video with `version`; `on_step` is told of every stage and step, `cancelled` asked as often.

        Raises JobCancelledError; UserError for what the request or the version cannot do (the pair in use stays);
        RegistryDownError while the registry does not answer; FloatingPointError for values that are no numbers.
        Finished stages stay in the job's folder; once all are done, only the video and finished.json: calling again
        returns them at once.
        """
        with self._lock:
            key = content_key(job.record(), version.as_dict(), self._identity)
            if (done := _read_finished(stage_store.folder, key)) is not None:
                return done
            request = self.settle(job, version)
            pair = self.adapters.load(version)
            before = self._slot.pair
            self._slot.use(pair, request.strength_high, request.strength_low)
            swap = self._slot.swap_seconds if self._slot.pair is not before else 0.0
            work = Work(self.pipeline, self.cache, self.config, job, request, key, on_step, cancelled, stage_store)
            try:
                finished = self._finish(work, version, swap)
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                raise UserError(
                    "the GPU's memory is too small for this request (fewer frames, smaller size)"
                ) from error
            write_json(stage_store.folder / FINISHED, {"key": key, **finished.record()})
            stage_store.clear()
            previews.clear(stage_store.folder)
            return finished

    def versions(self, version: VersionRef) -> dict[str, Any]:
        """What makes a video: packages, base, device, precision, levers, and the pair with SHA-256 per expert."""
        pair = self._slot.pair
        return self._identity | {
            "version": str(version),
            "pair": None if pair is None else pair_record(pair.manifest),
        }

    def state(self) -> dict[str, Any]:
        """For health checks and metrics: the version in use, the last swap's seconds, the encode cache."""
        return {
            "pair": None if self._slot.pair is None else self._slot.pair.manifest["name"],
            "swap_seconds": self._slot.swap_seconds,
            "cache": {"bytes": self.cache.bytes, "hits": self.cache.hits, "misses": self.cache.misses},
        }

    def close(self) -> None:
        """Let go of the alias that is followed."""
        self.adapters.close()

    def _describe(self) -> dict[str, Any]:
        chosen, plain = self.config.levers.model_dump(mode="json"), levers.Levers().model_dump(mode="json")
        return {
            "musubi_ext": __version__,
            "diffusers": installed("diffusers"),
            "torch": torch.__version__,
            "base": Path(self.config.base).name,
            "experts": [file.name for file in self.config.experts.files or ()],
            "device": self.config.device,
            "dtype": str(self.pipeline.transformer.dtype).removeprefix("torch."),
            "levers": {name: value for name, value in chosen.items() if value != plain[name]},
        }

    def _finish(self, work: Work, version: VersionRef, swap: float) -> Finished:
        """All candidates, the best of them, its scores and its mp4."""
        job, versions = work.job, self.versions(version)
        if job.best_of > 1:
            ranked = best_of(work, work.request, job.best_of, ranking(job.rank_by))
            video, scores = ranked.best, ranked.as_dict()
        else:
            video, scores = work.run(work.request), None
        work.enter("evaluate")
        path = work.store.folder / VIDEO
        meter = Meter("cpu")
        with meter.measured():
            results = measure(video.frames, job.prompt, self.config.evaluation)
            said = {"request": video.request, "versions": versions, "version": str(version), "evaluation": results}
            write_mp4(path, video.frames, video.fps, comment=said | ({"best_of": scores} if scores else {}))
        work.records.append(StageRecord("evaluate", meter.seconds, meter.peak_bytes, meter.memory))
        records = tuple(work.records)
        told = prompt_notes(self.pipeline, job.prompt, job.negative_prompt), scores, work.preview_seconds
        return Finished(path, version, video.request, versions, results, records, swap, *told)


def _read_finished(folder: Path, key: str) -> Finished | None:
    """What an earlier run of the same job left; None when there is nothing, or of another job."""
    try:
        value = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if value.pop("key", None) != key or not (folder / VIDEO).is_file():
        return None
    return Finished.of(value, folder)
