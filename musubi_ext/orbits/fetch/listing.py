"""What a data set repository holds at one commit: its files with sizes and digests, and its licence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx2

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.fetch.hub import HUB_ERRORS, Patience, Place, Retries, sentence
from musubi_ext.orbits.fetch.paths import check_paths

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo
    from huggingface_hub.hf_api import RepoSibling

ALIASES = {"circle-rotate": "jk1741391802/circle-rotate-dataset"}  # named in the README of Jklaity/Circle-Rotate
MAIN = "main"
LARGEST = 50_000  # files: beyond it the hub may leave some out of one answer


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository: path with "/", size in bytes, and SHA-256 (large files) or git blob id (the others)."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None

    @property
    def digest(self) -> str:
        """The one of both that it has, in hex."""
        return self.sha256 or self.blob_id or ""

    def is_content_of(self, path: Path) -> bool:
        """Whether the file at `path` is this one, byte for byte. Raises OSError when it cannot be read."""
        if path.stat().st_size != self.size:
            return False
        # git's name of a file is the SHA-1 of "blob SIZE\0" and its bytes; nothing is kept secret by it.
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest() == self.digest


@dataclass(frozen=True)
class Listing:
    """A repository at a commit. `revision` is what was asked for: a branch, a tag or a commit."""

    repository: str
    revision: str
    commit: str  # 40 hex digits
    licence: str | None  # as its card says
    files: tuple[RemoteFile, ...]


def repository_of(source: str) -> str:
    """OWNER/NAME that `source`, an alias or OWNER/NAME, stands for. Raises UserError for anything else."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported lazily

    if source in ALIASES:
        return ALIASES[source]
    try:
        validate_repo_id(source)
    except HFValidationError:
        known = False
    else:
        known = source.count("/") == 1
    if known:
        return source
    is_url = "://" in source
    fix = "a URL is no source: give what stands after /datasets/" if is_url else f"aliases: {', '.join(ALIASES)}"
    raise UserError(f"{shown(source)}: expected OWNER/NAME of a data set on the Hugging Face hub, or an alias ({fix})")


def list_files(
    place: Place, patience: Patience, notice: Callable[[str], None] = lambda _: None, stop: Event | None = None
) -> Listing:
    """Resolve `place.revision` to a commit and list its files. Raises UserError: no access, no such thing, no network,
    an answer that is none of a hub's, or paths that may not become files (all of them named)."""
    retries = Retries(patience, stop or Event(), notice)
    while True:
        try:
            return _listing(_ask(place, patience.timeout), place)
        except httpx2.ConnectError as error:  # before anything came waiting is of no use
            raise UserError(sentence(error, place)) from error
        except HUB_ERRORS as error:
            if not retries.again(error):
                raise UserError(sentence(error, place)) from error


def _ask(place: Place, timeout: float) -> DatasetInfo:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=place.endpoint)
    try:
        return api.dataset_info(place.repository, revision=place.revision, files_metadata=True, timeout=timeout)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, HUB_ERRORS):  # an answer 400 is a ValueError too
            raise
        raise UserError(f"{place.endpoint}: did not answer as a hub does ({error!r}; correct HF_ENDPOINT)") from error


def _listing(info: DatasetInfo, place: Place) -> Listing:
    siblings, commit = info.siblings or [], info.sha or ""
    problems = Problems()
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        problems.add(place.repository, f"expected a commit of 40 hex digits, the hub names {shown(commit) or 'none'}")
    if not siblings:
        problems.add(place.repository, f"has no files at {place.revision}")
    if len(siblings) >= LARGEST:
        problems.add(place.repository, f"expected fewer than {LARGEST} files, found {len(siblings)} or more")
    files = [_file(sibling, problems) for sibling in siblings]
    problems.collect(lambda: check_paths([file.path for file in files], place.repository))
    problems.raise_if_any()
    return Listing(place.repository, place.revision, commit, _licence(info.card_data), tuple(files))


def _file(sibling: RepoSibling, problems: Problems) -> RemoteFile:
    size, lfs = sibling.size, sibling.lfs
    if lfs is not None:
        file = RemoteFile(sibling.rfilename, lfs.size, lfs.sha256, None)
    else:
        file = RemoteFile(sibling.rfilename, -1 if size is None else size, None, sibling.blob_id)
    digits = 64 if lfs is not None else 40
    if file.size < 0 or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", file.digest):
        problems.add(shown(file.path), "the hub names no size or no digest, so it could not be verified")
    return file


def _licence(card: Any) -> str | None:
    """The card's licence, or licences; for "other" the name that it gives."""
    said = getattr(card, "license", None)
    if said == "other":
        said = card.get("license_name") or said
    names = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    return ", ".join(shown(str(name)) for name in names) or None
