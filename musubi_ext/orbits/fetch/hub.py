"""What can go wrong between here and the hub: what is worth another try, and a sentence for what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from threading import Event

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # exported lazily, which mypy cannot see

HUB_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled)
TRANSIENT = (408, 500, 502, 503, 504)
TOLD = 5.0  # seconds: a longer wait is said


@dataclass(frozen=True)
class Patience:
    """How long a request that brings nothing is tried again. Seconds."""

    attempts: int = 5  # in a row, without a byte gained
    first: float = 1.0  # before the second attempt, then doubled
    longest: float = 330.0  # all waits together; the hub counts requests over five minutes
    timeout: float = 30.0  # of silence on a connection


@dataclass(frozen=True)
class Place:
    """What a sentence about the hub names."""

    endpoint: str
    repository: str
    revision: str

    @property
    def page(self) -> str:
        """The repository's page."""
        return f"{self.endpoint}/datasets/{self.repository}"


class Retries:
    """Waits between the attempts of one request; `stop` ends a wait."""

    def __init__(self, patience: Patience, stop: Event, notice: Callable[[str], None]) -> None:
        self.patience, self.stop, self.notice = patience, stop, notice
        self.progressed()

    def progressed(self) -> None:
        """Bytes came: the count of attempts begins anew."""
        self.failed, self.waited = 0, 0.0

    def again(self, error: Exception) -> bool:
        """Wait as `error` asks; False, at once, when another attempt is not worth it."""
        self.failed += 1
        seconds = self._seconds(error)
        if seconds is None or self.failed >= self.patience.attempts or self.waited + seconds > self.patience.longest:
            return False
        if seconds > TOLD:
            limited = isinstance(error, HfHubHTTPError) and error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS
            reason = "the hub allows no more requests for now" if limited else "the hub does not answer as it should"
            self.notice(f"{reason}: waiting {seconds:.0f} s")
        self.waited += seconds
        return not self.stop.wait(seconds)

    def _seconds(self, error: Exception) -> float | None:
        backoff = self.patience.first * 2.0 ** (self.failed - 1)
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                asked = _asked(error.response.headers)
                return backoff if asked is None else asked
            return backoff if status in TRANSIENT else None
        hopeless = isinstance(error, httpx2.UnsupportedProtocol) or not isinstance(error, httpx2.TransportError)
        return None if hopeless else backoff


def _asked(headers: httpx2.Headers) -> float | None:
    """Seconds that an answer 429 asks to wait; None when it does not say."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = headers.get("Retry-After", "").strip()
    return float(after) if after.isdecimal() else None


def concerns_all(error: Exception) -> bool:
    """Whether what happened to one file will happen to every other: no access, no connection, no requests left."""
    if isinstance(error, HfHubHTTPError):
        return isinstance(error, RepositoryNotFoundError | DisabledRepoError) or error.response.status_code in (
            401,
            429,
        )
    return isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | OfflineModeIsEnabled)


def sentence(error: Exception, place: Place, path: str | None = None) -> str:
    """One of HUB_ERRORS, met for the listing or for the file at `path`, as one line with its remedy."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: nothing can be fetched (unset it)"
    if isinstance(error, HfHubHTTPError):
        return _answered(error, place) if path is None else _answered_for_file(error, place)
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return f"{place.endpoint}: expected an address such as https://huggingface.co (correct or unset HF_ENDPOINT)"
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        reason = str(error) or "no answer"
        return f"{_host(error, place)}: cannot be reached: {reason} (check the network, HTTPS_PROXY and HF_ENDPOINT)"
    if isinstance(error, httpx2.TimeoutException):
        return f"{_host(error, place)}: no answer in time (try again later; what came is kept)"
    reason = str(error) or type(error).__name__
    return f"{_host(error, place)}: the connection broke: {reason} (the same command goes on where it stopped)"


def _answered(error: HfHubHTTPError, place: Place) -> str:
    name, status = place.repository, error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{name}: gated: accept its terms at {place.page}, then `hf auth login` (or set HF_TOKEN)"
    if isinstance(error, RevisionNotFoundError):
        return f"{name}: has no revision {place.revision} (its branches and tags: {place.page}/tree/main)"
    if isinstance(error, DisabledRepoError):
        return f"{name}: the hub has disabled it (see {place.page})"
    if isinstance(error, RepositoryNotFoundError) or status == HTTPStatus.NOT_FOUND:
        return (
            f"{name}: {place.endpoint} has no such data set, or it is private "
            "(check the name; for a private one `hf auth login` or set HF_TOKEN)"
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return f"{name}: the hub refuses this account or token (`hf auth login` anew, or correct HF_TOKEN)"
    if status == HTTPStatus.FORBIDDEN:
        return f"{name}: this account has no access (ask for it at {place.page}, or use another HF_TOKEN)"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        asked = _asked(error.response.headers)
        wait = "some minutes" if asked is None else f"{asked:.0f} s"
        return f"{place.endpoint}: too many requests (wait {wait}, then the same command goes on; accounts have more)"
    return f"{_host(error, place)}: answered {status} (try again later; what came is kept)"


def _answered_for_file(error: HfHubHTTPError, place: Place) -> str:
    status = error.response.status_code
    if status == HTTPStatus.NOT_FOUND:
        return f"{place.page}: lists it at this commit, but has it no more (404)"
    if status == HTTPStatus.FORBIDDEN:
        return f"{_host(error, place)}: refuses it (403: see {place.page})"
    return _answered(error, place)


def _host(error: Exception, place: Place) -> str:
    """Scheme and host that were asked: the hub, or where it redirected to."""
    try:
        url = error.request.url if isinstance(error, httpx2.HTTPError) else None
    except RuntimeError:  # raised before there was a request
        url = None
    return place.endpoint if url is None else str(url.copy_with(raw_path=b"/", fragment=None)).rstrip("/")
