"""The queue with the real engine on a tiny pipeline: killed between stages, the video is the one of an unbroken run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from some_jobs import ended

from musubi_ext.video import read_video
from serving.config import ServiceConfig
from serving.jobs import Jobs
from serving.making.stages import STAGES
from serving.queue.job_settings import JobSettings


def test_a_killed_job_goes_on_behind_its_finished_stages_to_the_same_video(
    tmp_path: Path, tiny_pipeline: Path, make_job
) -> None:
    values = {"base": str(tiny_pipeline), "pair": "", "folder": str(tmp_path), "threads": 1}
    config = ServiceConfig.of({**values, "evaluation": {"enabled": False}})
    jobs = Jobs(JobSettings.of(config, grace=0.0))
    jobs.start()
    try:
        request = make_job(num_inference_steps=100)
        broken = jobs.submit(request, "a")
        high = jobs.settings.job_folder(broken.id) / "stages" / "0-high.safetensors"
        deadline = time.monotonic() + 120
        while not high.exists() and time.monotonic() < deadline:
            time.sleep(0.001)  # many steps of the low-noise expert are still to come
        os.kill(jobs.supervisor.pids()[0], signal.SIGKILL)
        there = {path.stem.removeprefix("0-") for path in high.parent.iterdir()}
        broken = ended(jobs, broken, 120)
        whole = ended(jobs, jobs.submit(request, "a"), 120)
        assert (broken.state, whole.state) == ("completed", "completed"), (broken.error, whole.error)
        assert (broken.attempt, whole.attempt) == (2, 1)
        resumed = {stage["stage"]: stage["resumed"] for stage in broken.result["stages"]}
        assert there
        needed = next((STAGES[at:] for at, stage in ((3, "decode"), (2, "low")) if stage in there), STAGES)
        assert resumed == {stage: stage in there for stage in needed}  # a latent makes what lies before it needless
        assert not any(stage["resumed"] for stage in whole.result["stages"])
        first, second = (read_video(jobs.file(job.id, "video", "a"))[0] for job in (broken, whole))
        assert np.array_equal(first, second)
    finally:
        jobs.close()
