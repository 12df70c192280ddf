"""The registry as the service asks it: what a reference means, its verified files, and what it was promoted with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import UserError
from serving.versions.promises import Promise, promises
from serving.versions.version_ref import RegistryDownError, VersionRef

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair


class Registered:
    """`uri`: as registry.store.tracking_uri takes it. All methods may be called from any thread.

    Each raises RegistryDownError while no store answers, and UserError for what is not there.
    """

    def __init__(self, uri: str | None) -> None:
        self.uri = uri
        self._client: Any = None

    def ref(self, reference: str) -> VersionRef:
        """What NAME@ALIAS or NAME/3, with or without models:/, means now."""
        from musubi_ext.registry.versions import checksums

        with self._found(reference) as (_, version):
            return VersionRef(version.name, int(version.version), checksums(version))

    def has(self, reference: str) -> bool:
        """Whether the alias of models:/NAME@ALIAS exists. A SQLite file that is not there is not made."""
        from musubi_ext.registry.names import parse_reference
        from musubi_ext.registry.store import sqlite_path, tracking_uri
        from musubi_ext.registry.versions import aliases

        store, wanted = sqlite_path(tracking_uri(self.uri)), parse_reference(reference)
        if store is not None and not store.is_file():
            return False
        with self._asking(reference) as client:
            found = client.search_registered_models(filter_string=f"name = '{wanted.name}'")
            return bool(found) and wanted.alias in aliases(client, wanted.name)

    def open(self, version: VersionRef) -> AdapterPair:
        """The version's pair from this machine's cache, or downloaded to it; its files verified either way.

        Raises UserError naming each file that is missing or changed, also where its tags have since changed.
        """
        from musubi_ext.registry.downloads import cached
        from musubi_ext.registry.model import open_pair
        from musubi_ext.registry.versions import checksums

        with self._found(str(version)) as (client, found):
            if checksums(found) != version.checksums:
                raise UserError(f"{version}: its checksums were changed since the job was accepted")
            try:
                return open_pair(cached(client, found), found)
            except UserError:
                client.search_experiments(max_results=1)  # are the files gone, or is it the store?
                raise

    def promised(self, version: VersionRef) -> dict[str, Promise]:
        """Metric → what its promotion's evidence, or else its registration, says of it."""
        with self._found(str(version)) as (client, found):
            return promises(client, found)

    @contextmanager
    def _found(self, reference: str) -> Iterator[tuple[Any, Any]]:
        """The client, and MLflow's own record of the version that a reference means now."""
        from musubi_ext.registry.names import parse_reference
        from musubi_ext.registry.versions import find_version

        parsed = parse_reference(reference)
        with self._asking(str(parsed)) as client:
            yield client, find_version(client, parsed)

    @contextmanager
    def _asking(self, what: str) -> Iterator[Any]:
        from musubi_ext.registry.store import STORE_ERRORS, connect, tracking_uri

        silent, uri = RegistryDownError(f"{what}: the registry does not answer"), tracking_uri(self.uri)
        if self._client is None:
            try:
                self._client = connect(uri)  # asks it once
            except UserError as error:
                raise silent from error
        try:
            yield self._client
        except STORE_ERRORS as error:
            raise silent from error
