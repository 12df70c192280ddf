"""One file from the hub: into a part that a later run goes on with, compared, then renamed to its final name.

huggingface_hub 2 throws a part away when its process ends (its parts have names of their own for each process), so the
parts are kept here; requests, redirects, tokens, proxies and errors are its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Event

import httpx2
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily, which mypy cannot see
    hf_raise_for_status,
    http_stream_backoff,
)

from musubi_ext.orbits.fetch.hub import HUB_ERRORS, Patience, Place, Retries, concerns_all
from musubi_ext.orbits.fetch.listing import RemoteFile
from musubi_ext.orbits.fetch.paths import PARTS


class DamagedError(Exception):
    """What the hub sent is not what its listing names; nothing of it is kept."""


class StoppedError(Exception):
    """The run is ending; the part is kept."""


@dataclass(frozen=True)
class Transfer:
    """What the transfers of a run share. `place.revision` is the commit; `advance` takes bytes, negative when a part
    goes; `came` collects the paths of files that are whole."""

    place: Place
    folder: Path
    headers: Mapping[str, str]
    patience: Patience
    stop: Event
    advance: Callable[[int], None]
    notice: Callable[[str], None]
    came: list[str]

    def fetch(self, file: RemoteFile) -> None:
        """`file` under its final name, whole and verified. Raises DamagedError, StoppedError, OSError or HUB_ERRORS."""
        part = part_of(self.folder, file)
        try:
            self._complete(file, part)
        except HUB_ERRORS as error:
            if concerns_all(error):
                self.stop.set()
            raise
        if not file.is_content_of(part):
            self._discard(part)
            digest = "SHA-256" if file.sha256 else "git blob id"
            raise DamagedError(
                f"what was sent has not the {digest} that the hub names (the same command fetches it anew)"
            )
        target = self.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(part, target)
        self.came.append(file.path)

    def _complete(self, file: RemoteFile, part: Path) -> None:
        """Request what the part lacks until it lacks nothing."""
        part.touch()
        retries = Retries(self.patience, self.stop, self.notice)
        while (had := part.stat().st_size) < file.size:
            try:
                self._append(file, part, had)
                error: Exception = httpx2.RemoteProtocolError("it ended before the file did")
            except (httpx2.TransportError, HfHubHTTPError) as raised:
                error = raised
            if part.stat().st_size > had:
                retries.progressed()
            if part.stat().st_size < file.size and not retries.again(error):
                if self.stop.is_set():
                    raise StoppedError from error
                raise error

    def _append(self, file: RemoteFile, part: Path, had: int) -> None:
        """One request, from byte `had` on; from the first when the server does not know ranges."""
        url = hf_hub_url(
            self.place.repository,
            file.path,
            repo_type="dataset",
            revision=self.place.revision,
            endpoint=self.place.endpoint,
        )
        headers = {**self.headers, "Accept-Encoding": "identity"}  # ranges count the bytes of the file itself
        if had:
            headers["Range"] = f"bytes={had}-"
        with http_stream_backoff(
            "GET",
            url,
            headers=headers,
            timeout=self.patience.timeout,
            max_retries=0,  # Retries waits: as long as the hub asks, but never without end, and Ctrl-C ends it
            retry_on_exceptions=(),
            retry_on_status_codes=(),
        ) as answer:
            if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._discard(part)
                raise DamagedError(
                    "the hub holds fewer bytes than its listing names (the same command fetches it anew)"
                )
            hf_raise_for_status(answer)
            if had and answer.status_code != HTTPStatus.PARTIAL_CONTENT:
                self._discard(part)
                had = 0
            self._store(answer, file, part, had)

    def _store(self, answer: httpx2.Response, file: RemoteFile, part: Path, had: int) -> None:
        with open(part, "ab") as out:
            for block in answer.iter_bytes():
                if self.stop.is_set():
                    raise StoppedError
                had += len(block)
                if had > file.size:
                    self._discard(part)
                    raise DamagedError(
                        f"expected {file.size} bytes, the hub sent more (the same command fetches it anew)"
                    )
                out.write(block)
                out.flush()  # a killed run loses nothing that came
                self.advance(len(block))

    def _discard(self, part: Path) -> None:
        self.advance(-part.stat().st_size)
        part.unlink()


def part_of(folder: Path, file: RemoteFile) -> Path:
    """Where `file` grows: named by content and path, so that a part never becomes another file."""
    return folder / PARTS / f"{file.digest}.{hashlib.sha256(file.path.encode()).hexdigest()[:16]}.part"
