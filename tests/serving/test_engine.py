"""Jobs on the real engine: the same video however often it was interrupted, and nothing left behind by a failure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.pocket.upstream import export_experts
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import sha256
from musubi_ext.video import read_comment, read_video
from serving.adapters_live import BASE, VersionRef
from serving.config import ServiceConfig
from serving.engine import Engine, Finished, JobCancelledError, Progress
from serving.making.request import JobRequest
from serving.making.stages import STAGES, StageStore

ROOT = Path(__file__).resolve().parents[2]


def run(engine: Engine, job: JobRequest, folder: Path, *, version: VersionRef = BASE, **calls: Any) -> Finished:
    quiet: dict[str, Any] = {"on_step": lambda _: None, "cancelled": lambda: False}
    return engine.run(job, version=version, stage_store=StageStore(folder), **(quiet | calls))


def stop_when(where: Callable[[Progress], bool]) -> dict[str, Any]:
    """Calls of a job that is cancelled at the first progress of which `where` is true."""
    seen: list[Progress] = []
    return {"on_step": seen.append, "cancelled": lambda: where(seen[-1])}


def test_job_becomes_a_video_that_says_what_made_it(
    tiny_engine: Engine, make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    seen: list[Progress] = []
    done = run(tiny_engine, make_job(last=2), tmp_path, on_step=seen.append)
    frames, fps = read_video(done.files["video"])
    assert (frames.shape, fps) == ((5, 32, 32, 3), 8.0)
    comment = read_comment(done.video)
    assert comment["version"] == "base"
    assert comment["request"]["seed"] == 7
    assert comment["evaluation"] == done.results
    assert comment["evaluation"]["motion_magnitude"]["value"] > 0
    assert comment["versions"]["pair"] is None
    assert [record.stage for record in done.stages] == list(STAGES)
    assert all(record.seconds > 0 and record.peak_bytes > 10_000_000 for record in done.stages)
    assert [one.step for one in seen] == [0, 0, 1, 2, 2, 3, 4, 4, 4]  # a stage's begin, and each step
    assert seen[-1].fraction == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finished.json", "video.mp4"]
    assert json.loads(json.dumps(done.record(), allow_nan=False))["video"] == "video.mp4"


def test_same_request_gives_the_same_bytes_and_a_finished_one_is_not_repeated(
    tiny_engine: Engine, make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    first, again = (run(tiny_engine, make_job(), tmp_path / name) for name in "ab")
    assert sha256(first.video) == sha256(again.video)
    seen: list[Progress] = []
    back = run(tiny_engine, make_job(), tmp_path / "a", on_step=seen.append)
    assert (seen, back) == ([], first)
    other = run(tiny_engine, make_job(seed=8), tmp_path / "a")  # another job in the same folder
    assert sha256(other.video) != sha256(again.video)


def test_experts_of_their_own_files_take_the_place_of_the_bases(
    tiny_engine: Engine,
    tiny_config: Callable[..., ServiceConfig],
    tiny_pipeline: Path,
    make_job: Callable[..., JobRequest],
    tmp_path: Path,
) -> None:
    files = export_experts(tiny_pipeline, tmp_path)
    high, low = str(files[Expert.HIGH]), str(files[Expert.LOW])
    theirs = run(tiny_engine, make_job(), tmp_path / "base")
    same = run(Engine(tiny_config(experts={"high": high, "low": low})), make_job(), tmp_path / "same")
    other = run(Engine(tiny_config(experts={"high": low, "low": high})), make_job(), tmp_path / "other")
    frames = {
        folder: read_video(done.video)[0] for folder, done in (("base", theirs), ("same", same), ("other", other))
    }
    assert np.array_equal(frames["same"], frames["base"])
    assert not np.array_equal(frames["other"], frames["base"])
    assert same.versions["experts"] == ["high.safetensors", "low.safetensors"]


_RESUME = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from serving.adapters_live import BASE
from serving.config import ServiceConfig
from serving.engine import Engine
from serving.making.request import JobRequest
from serving.making.stages import StageStore
engine = Engine(ServiceConfig.of({"base": sys.argv[1], "pair": ""}))
for folder in sys.argv[2:]:
    done = engine.run(JobRequest.load(folder), version=BASE, on_step=lambda _: None, cancelled=lambda: False,
                      stage_store=StageStore(folder))
    print(*(record.stage for record in done.stages if record.resumed), sep=",")
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_job_goes_on_in_another_process_to_the_same_bits(
    tiny_engine: Engine, tiny_pipeline: Path, make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    job = make_job(last=2, num_inference_steps=6, guidance_scale=2.0)
    whole = run(tiny_engine, job, tmp_path / "whole")
    for stage in STAGES:
        job.save(tmp_path / stage)
        # stopped on entering the stage: all before it are on the disk
        with pytest.raises(JobCancelledError):
            run(tiny_engine, job, tmp_path / stage, **stop_when(lambda progress, at=stage: progress.stage == at))
    folders = [str(tmp_path / stage) for stage in STAGES]
    command = [sys.executable, "-W", "ignore", "-c", _RESUME, str(tiny_pipeline), *folders]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert found == ["", "encode", "encode,high", "low", "decode"]  # the rest is deleted once nobody needs it
    for stage in STAGES:
        assert sha256(tmp_path / stage / "video.mp4") == sha256(whole.video), stage


def test_cancelled_at_a_step_leaves_nothing_in_the_engine(
    tiny_config: Callable[..., ServiceConfig], make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    # a cache that keeps state from step to step, as the production bases use them
    engine = Engine(tiny_config(levers={"step_cache": "first_block", "first_block_threshold": [0.5, 0.5]}))
    job = make_job(num_inference_steps=8)
    whole = run(engine, job, tmp_path / "before")
    for step in (1, 2, 6):
        stop = stop_when(lambda progress, at=step: progress.step == at and progress.stage != "encode")
        with pytest.raises(JobCancelledError):
            run(engine, make_job(9, num_inference_steps=8, seed=1), tmp_path / f"stopped{step}", **stop)
        again = run(engine, job, tmp_path / f"after{step}")
        assert sha256(again.video) == sha256(whole.video)


def test_error_of_the_listener_passes_through_and_the_engine_goes_on(
    tiny_engine: Engine, make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    def fail(progress: Progress) -> None:
        if progress.step == 2:
            raise ConnectionError("the database is gone")

    with pytest.raises(ConnectionError):
        run(tiny_engine, make_job(), tmp_path / "a", on_step=fail)
    assert run(tiny_engine, make_job(), tmp_path / "a").stages[0].resumed


def test_pair_is_in_the_video_and_gone_after_it(
    tiny_pipeline: Path, make_pair: Callable[..., AdapterPair], make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    pair = make_pair(3)
    engine = Engine(ServiceConfig.of({"base": str(tiny_pipeline), "pair": str(pair.path.parent)}))
    version = engine.adapters.resolve()
    plain = run(engine, make_job(), tmp_path / "plain")
    with_pair = run(engine, make_job(), tmp_path / "pair", version=version)
    weak = run(engine, make_job(strength_high=0.5), tmp_path / "weak", version=version)
    after = run(engine, make_job(), tmp_path / "after")
    assert sha256(plain.video) == sha256(after.video)
    assert len({sha256(done.video) for done in (plain, with_pair, weak)}) == 3
    assert with_pair.versions["pair"]["sha256_high"] == pair.manifest["experts"]["high"]["sha256"]
    assert read_comment(with_pair.video)["version"] == "orbit (a folder)"
    assert with_pair.swap_seconds > 0
    assert weak.swap_seconds == 0


def test_pair_that_does_not_fit_fails_its_job_and_the_old_one_stays(
    tiny_engine: Engine, make_pair: Callable[..., AdapterPair]
) -> None:
    from musubi_ext.pocket.config import TINY

    good, wrong = make_pair(4), make_pair(5, transformer={"layers": TINY.layers + 1})
    slot = tiny_engine._slot
    slot.use(good)
    with pytest.raises(UserError, match="wrong base"):
        slot.use(wrong)
    assert slot.pair is good
    kept = list(tiny_engine.pipeline.transformer.peft_config)
    assert len(kept) == 1
    slot.use(None)
    assert getattr(tiny_engine.pipeline.transformer, "peft_config", {}) == {}


@pytest.mark.parametrize("rank", [4, 2])
def test_exchanged_pair_gives_the_bits_of_a_fresh_one(
    tiny_engine: Engine, make_pair: Callable[..., AdapterPair], rank: int
) -> None:
    """Of the same rank it is written into the layers that are there, of another one it gets its own."""
    slot, other = tiny_engine._slot, make_pair(7, rank=rank)
    slot.use(other)
    fresh = _matrices(tiny_engine)
    slot.use(None)
    slot.use(make_pair(6), 0.5, 0.25)
    assert _matrices(tiny_engine) != fresh
    slot.use(other)
    assert _matrices(tiny_engine) == fresh
    slot.use(None)


def _matrices(engine: Engine) -> dict[str, Any]:
    """Every adapter's matrices and scale, by layer, whatever the adapter's name."""
    found = {}
    for expert in ("transformer", "transformer_2"):
        for path, layer in getattr(engine.pipeline, expert).named_modules():
            for name in getattr(layer, "scaling", {}):
                weights = layer.lora_A[name].weight.tolist(), layer.lora_B[name].weight.tolist()
                found[f"{expert}.{path}"] = (*weights, layer.scaling[name])
    return found


def test_repeated_prompt_and_first_frame_are_not_encoded_again(
    tiny_config: Callable[..., ServiceConfig], make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    engine = Engine(tiny_config())
    plain = run(engine, make_job(seed=1), tmp_path / "1")
    assert (engine.cache.misses, engine.cache.hits) == (2, 0)
    again = run(engine, make_job(seed=1), tmp_path / "2")
    assert (engine.cache.misses, engine.cache.hits) == (2, 2)
    assert sha256(again.video) == sha256(plain.video)
    run(engine, make_job(2, seed=1), tmp_path / "3")
    assert engine.cache.misses == 3  # another picture, the same prompt
    run(engine, make_job(seed=1, num_frames=9), tmp_path / "4")
    assert engine.cache.misses == 4  # the mask covers other frames


def test_best_of_keeps_the_best_and_tells_every_score(
    tiny_engine: Engine, make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    job = make_job(best_of=3, rank_by="flicker", seed=40)
    seen: list[Progress] = []
    done = run(tiny_engine, job, tmp_path / "all", on_step=seen.append)
    assert done.best_of is not None
    chosen = done.best_of["chosen_seed"]
    alone = run(tiny_engine, make_job(seed=chosen), tmp_path / "alone")
    assert read_video(done.video)[0].tolist() == read_video(alone.video)[0].tolist()
    assert done.settings["seed"] == chosen
    assert sorted(one["seed"] for one in done.best_of["candidates"]) == [40, 41, 42]
    assert (seen[-1].step, seen[-1].steps) == (12, 12)
    assert [one.step for one in seen] == sorted(one.step for one in seen)
    # stopped in the second candidate, the first is not made again
    stop = stop_when(lambda progress: progress.candidate == 1 and progress.stage == "low")
    with pytest.raises(JobCancelledError):
        run(tiny_engine, job, tmp_path / "stopped", **stop)
    resumed = run(tiny_engine, job, tmp_path / "stopped")
    assert sha256(resumed.video) == sha256(done.video)
    assert [(one.stage, one.candidate) for one in resumed.stages if one.resumed] == [
        ("decode", 0), ("encode", 1), ("high", 1),
    ]  # fmt: skip


def test_request_that_costs_too_much_is_refused_before_anything_is_made(
    tiny_config: Callable[..., ServiceConfig], make_job: Callable[..., JobRequest], tmp_path: Path
) -> None:
    engine = Engine(tiny_config(limits={"frames": 9, "steps": 10, "volume": 4_000}))
    with pytest.raises(UserError) as caught:
        run(engine, make_job(num_frames=None, seconds=3.0, num_inference_steps=11), tmp_path)
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "num_frames", "num_inference_steps", "size and num_frames",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_damaged_stage_is_made_again(tiny_engine: Engine, make_job: Callable[..., JobRequest], tmp_path: Path) -> None:
    whole = run(tiny_engine, make_job(), tmp_path / "whole")
    with pytest.raises(JobCancelledError):
        run(tiny_engine, make_job(), tmp_path / "cut", **stop_when(lambda progress: progress.stage == "decode"))
    path = StageStore(tmp_path / "cut").path("low")
    path.write_bytes(path.read_bytes()[:-100])
    done = run(tiny_engine, make_job(), tmp_path / "cut")
    assert sha256(done.video) == sha256(whole.video)
    assert not any(record.resumed for record in done.stages)
