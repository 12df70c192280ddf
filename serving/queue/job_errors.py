"""Why a job is not accepted or not shown."""

from __future__ import annotations


class JobError(Exception):
    """`code` for programs, `retry_after` seconds where waiting helps."""

    code = "error"
    retry_after: int | None = None


class QueueFullError(JobError):
    """HTTP 503: as many jobs wait as may."""

    code = "queue_full"
    retry_after = 10


class QuotaError(JobError):
    """HTTP 429: this owner has as many jobs as it may."""

    code = "quota_exceeded"
    retry_after = 10


class ConflictError(JobError):
    """HTTP 409: the idempotency key was used for another request, or the job's state does not allow it."""

    code = "conflict"


class NotFoundError(JobError):
    """HTTP 404: no such job, or another's: which of these is not said."""

    code = "not_found"

    def __init__(self) -> None:
        super().__init__("no such job")
