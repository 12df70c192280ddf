"""One video of a suite and its results: rendered truth, film, measurement. Each is made once and kept by content.

It stands above generation and evaluation, which do not know one another. Measured is the mp4, which is what anyone will
see; against the same numbers from frames before the codec, medians of drift, motion and PSNR differ by 0.4 % at most,
the swept angle's error by 9 % (24 rendered scenes of the pocket).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import Problems
from musubi_ext.evaluation.comparable import scene_of
from musubi_ext.evaluation.masks import MaskSource
from musubi_ext.evaluation.profile import Profile
from musubi_ext.evaluation.result import results_document
from musubi_ext.evaluation.suite import Inputs, Measured, measure_file, select, unavailable
from musubi_ext.evaluation.truth import Truth
from musubi_ext.orbits.render import write_dataset
from musubi_ext.promotion.shootings import Shooting, caption_of
from musubi_ext.registry.suite_config import ALL, SHAPES
from musubi_ext.storage import write_json
from musubi_ext.video import Frames, read_comment, read_video, write_mp4

if TYPE_CHECKING:
    from musubi_ext.evaluation.metrics import Metric
    from musubi_ext.generation.circle_rotate import CircleRotate

_PAIR_OF = 2  # scenes are rendered by two: their cameras turn in alternate directions


def check_before(jobs: Sequence[Shooting]) -> None:
    """Raises UserError with everything wrong with base, device, pairs and pictures, before minutes are spent."""
    from musubi_ext.generation.pipeline import choose_device, resolve_base
    from musubi_ext.generation.request import GenerationRequest

    problems, base = Problems(), jobs[0].base
    problems.collect(lambda: choose_device(jobs[0].device))
    folder = problems.collect(lambda: resolve_base(base))
    for pair in {job.pair for job in jobs} - {None}:
        problems.collect(partial(_fits, pair, base, folder))
    for job in jobs:
        if (asked := job.scene.prompt) is not None:
            settings = {**job.settings, "seed": job.scene.seed}
            problems.collect(partial(GenerationRequest, asked.prompt, asked.first, asked.last, **settings))
    Problems(list(dict.fromkeys(problems.found))).raise_if_any()


def scenes_to_render(jobs: Sequence[Shooting]) -> list[Shooting]:
    """One job for each two rendered scenes of which something is missing."""
    by_number = {}
    for job in jobs:
        if job.truth is not None and not all(job.truth.with_suffix(end).is_file() for end in (".npz", ".txt")):
            by_number[_first_of_two(job)] = job
    return list(by_number.values())


def render(job: Shooting) -> None:
    """Write a scene and its neighbour, whose camera turns the other way, with views around the subject."""
    suite = job.suite
    write_dataset(
        job.kept.scenes(suite), _PAIR_OF, domain="orbit", seed=_first_of_two(job), size=suite.size,
        frames=suite.frames, family=SHAPES[suite.shapes], with_sweep=True,
    )  # fmt: skip


def shoot(job: Shooting) -> Measured:
    """Make what is missing of one video and its results. What cannot be made is said in the results, and not kept."""
    with _steady(job.device):
        truth = None if job.truth is None else Truth.load(job.truth)
        metrics = _metrics(job)
        try:
            if not job.video.is_file():
                _film(job, truth)
            reference = None if truth is None else _reference(job, truth)
        except FloatingPointError as error:
            return Measured(unavailable(metrics, f"no video: {error}"), (f"{job.scene.name}: {error}",))
        measured = measure_file(job.video, metrics, _inputs(job, truth, reference), contain=(Exception,))
    if not measured.problems:
        document = results_document({job.scene.name: measured.results})
        write_json(job.results, document | {"scenes": {job.scene.name: scene_of(read_comment(job.video))}})
    return measured


def died(job: Shooting) -> Measured:
    """What is known of a video whose process died."""
    why = "the process that made it died (killed, or out of memory)"
    return Measured(unavailable(_metrics(job), why), (f"{job.scene.name}: {why}",))


def _fits(pair: Path | None, base: str, folder: Path | None) -> None:
    from musubi_ext.adapters.pair import AdapterPair
    from musubi_ext.generation.pair import check_fits

    if pair is not None and folder is not None:
        check_fits(AdapterPair.load(pair), base, folder)


def _metrics(job: Shooting) -> list[Metric]:
    return select("all" if job.suite.metrics == (ALL,) else job.suite.metrics)


def _film(job: Shooting, truth: Truth | None) -> None:
    asked = job.scene.prompt
    first: Any = truth.frames[0] if truth is not None else asked.first if asked is not None else None
    last = None if asked is None else asked.last
    rotate = _loaded(job.base, job.device)
    if (rotate.pair is None) != (job.pair is None) or (rotate.pair is not None and rotate.pair.path.parent != job.pair):
        rotate.use(job.pair)
    video = rotate(first, caption_of(job), last, seed=job.scene.seed, **job.settings)
    video.save(job.video)


def _reference(job: Shooting, truth: Truth) -> Frames:
    """The true orbit through the base's own VAE: a latent cannot move more than its decoder shows."""
    path = job.kept.file("references", job.reference_key, ".mp4")
    if not path.is_file():
        write_mp4(path, reconstruct(_loaded(job.base, job.device), truth.frames), float(job.settings["fps"]))
    return read_video(path)[0]


def reconstruct(rotate: CircleRotate, frames: Frames) -> Frames:
    """Frames (F, H, W, 3) after the base's VAE, the best that any latent could show: uint8, the same shape."""
    import numpy as np
    import torch

    vae = rotate.pipeline.vae
    with torch.inference_mode():
        clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].to(vae.device, vae.dtype) / 127.5 - 1
        decoded = vae.decode(vae.encode(clip).latent_dist.mode()).sample[0]  # (3, F, H, W)
        levels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 3, 0).cpu().numpy())


def _inputs(job: Shooting, truth: Truth | None, reference: Frames | None) -> Inputs:
    models = None
    if job.suite.models is not None:
        from musubi_ext.evaluation.features import ModelSource

        models = ModelSource(job.suite.models)
    return Inputs(
        truth=truth,
        masks=MaskSource(job.suite.masks),
        reference=reference,
        models=models,
        caption=caption_of(job),
        profile=Profile(job.suite.profile),
        threads=1,
    )


@lru_cache(maxsize=1)
def _loaded(base: str, device: str) -> CircleRotate:
    """Once in each process; pairs are put into it one after the other."""
    from musubi_ext.generation.circle_rotate import CircleRotate

    return CircleRotate(base, device=device)


@contextmanager
def _steady(device: str) -> Iterator[None]:
    """On a CPU one thread, so that sums are added in one order; a process a core is faster on small tensors anyway."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_of_two(job: Shooting) -> int:
    assert job.scene.number is not None
    return job.scene.number - (job.scene.number - job.suite.scene_seed) % _PAIR_OF
