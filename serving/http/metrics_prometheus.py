"""What Prometheus scrapes: the queue now, and the last completed jobs' stages, speed, memory and scores.

Stage times and scores are gauges over the latest jobs, read from the jobs themselves: the same from every replica, and
right again after a restart. Nothing of a prompt, a key or a path is in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from serving.http.view import version_name
from serving.queue.store import COMPLETED, JobRecord

if TYPE_CHECKING:
    from serving.http.catalog import Watches
    from serving.jobs import Jobs

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RECENT = 50
_PREFIX = "musubi_ext_"
_DENOISING = ("high", "low")


def recent_jobs(jobs: Jobs) -> list[JobRecord]:
    """The last completed jobs of all owners, newest first."""
    import sqlalchemy as sa

    from serving.queue.store import jobs as table
    from serving.queue.store import record

    latest = sa.select(table).where(table.c.state == COMPLETED).order_by(table.c.completed_at.desc()).limit(RECENT)
    with jobs.database.read() as connection:
        return [record(row) for row in connection.execute(latest)]


def watched(online: Watches | None) -> dict[str, Any]:
    """Online.state, or that nothing is watched."""
    return {"drift": [], "mlflow": {}} if online is None else online.state()


def render(
    stats: Mapping[str, Any],
    recent: Sequence[JobRecord],
    adapters: Mapping[str, Any],
    online: Mapping[str, Any] | None = None,
) -> str:
    """The text format of `Jobs.stats`, `recent_jobs`, `LiveAdapters.state` and `watched`."""
    lines: list[str] = []
    families = (*_families(stats, recent, adapters), *_of_online(online or watched(None)))
    for name, text, samples in families:
        lines += [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} gauge"]
        lines += [f"{_PREFIX}{name}{_labels(labels)} {float(value):.9g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


Family = tuple[str, str, list[tuple[dict[str, str], float]]]


def _families(stats: Mapping[str, Any], recent: Sequence[JobRecord], adapters: Mapping[str, Any]) -> Iterator[Family]:
    yield "jobs", "Jobs kept, by state.", [({"state": state}, n) for state, n in sorted(stats["states"].items())]
    yield "queue_depth", "Jobs that wait.", [({}, stats["queued"])]
    yield "queue_limit", "Jobs that may wait.", [({}, stats["queue_limit"])]
    yield "queue_oldest_wait_seconds", "How long the first in the queue has waited.", [({}, stats["oldest_wait"])]
    workers = stats["workers"]
    yield "workers", "Workers heard of lately, by readiness.", [
        ({"ready": word}, sum(ready is value for ready in workers.values()))
        for word, value in (("true", True), ("false", False))
    ]  # fmt: skip
    yield "worker_mistakes", "Workers that cannot be started as configured.", [({}, len(stats.get("mistakes") or ()))]
    current = str(adapters.get("current") or "none").removeprefix("models:/")
    yield "adapter_version_info", "The version that serves.", [({"version": current}, 1)]
    refused = adapters.get("refused") is not None
    yield "adapter_refused", "1 while a promoted version could not be loaded.", [({}, refused)]
    yield from _of_recent(recent)


def _of_recent(recent: Sequence[JobRecord]) -> Iterator[Family]:
    about = f"of the last {RECENT} completed jobs, mean"
    waits = [job.started_at - job.created_at for job in recent if job.started_at is not None]
    yield "job_wait_seconds", f"From acceptance to start, {about}.", _mean({"": waits})
    seconds: dict[str, list[float]] = {}
    peaks: dict[tuple[str, str], float] = {}
    speeds: list[float] = []
    for job in recent:
        stages = job.result.get("stages") or []
        for stage in stages:
            seconds.setdefault(stage["stage"], []).append(stage["seconds"])
            key = (stage["stage"], stage.get("memory", ""))
            peaks[key] = max(peaks.get(key, 0.0), stage["peak_bytes"])
        denoising = sum(stage["seconds"] for stage in stages if stage["stage"] in _DENOISING)
        if denoising > 0 and job.steps:
            speeds.append(job.steps / denoising)
    yield "stage_seconds", f"Of one candidate, {about}.", _mean(seconds, "stage")
    yield "stage_peak_bytes", "Most memory of the last completed jobs.", [
        ({"stage": stage, "memory": memory}, value) for (stage, memory), value in sorted(peaks.items())
    ]  # fmt: skip
    yield "steps_per_second", f"Denoising steps, {about}.", _mean({"": speeds})
    drawn = [job.result["preview_seconds"] for job in recent if job.result.get("preview_seconds")]
    yield "preview_seconds", f"Spent on previews, {about}.", _mean({"": drawn})
    yield "videos", f"By version, among the last {RECENT} completed jobs.", _by_version(recent)
    yield "score", f"Evaluation by version and metric, {about}.", _scores(recent)


def _of_online(online: Mapping[str, Any]) -> Iterator[Family]:
    told = {
        "drift_mean": ("mean", "Of a version's last videos, where it was promoted with a number for the metric."),
        "drift_promised": ("promised", "What the version was promoted with."),
        "drift_alarm": ("ringing", "1 while the mean is worse than promised by more than chance and tolerance."),
    }
    for name, (field, text) in told.items():
        yield name, text, [
            ({"version": one["version"].removeprefix("models:/"), "metric": one["metric"]}, one[field])
            for one in online["drift"]
        ]  # fmt: skip
    yield "online_evaluation_videos", "Of MLflow's share since the start, and not taken by it so far.", [
        ({"state": state}, number) for state, number in sorted(online["mlflow"].items())
    ]  # fmt: skip


def _mean(values: Mapping[str, Sequence[float]], label: str = "") -> list[tuple[dict[str, str], float]]:
    return [({label: name} if label else {}, fmean(of)) for name, of in sorted(values.items()) if of]


def _by_version(recent: Sequence[JobRecord]) -> list[tuple[dict[str, str], float]]:
    names = [version_name(job.version) or "base" for job in recent]
    return [({"version": name}, names.count(name)) for name in sorted(set(names))]


def _scores(recent: Sequence[JobRecord]) -> list[tuple[dict[str, str], float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for job in recent:
        for metric, result in (job.result.get("results") or {}).items():
            if result.get("value") is not None:
                found.setdefault((version_name(job.version) or "base", metric), []).append(result["value"])
    return [({"version": name, "metric": metric}, fmean(of)) for (name, metric), of in sorted(found.items())]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
