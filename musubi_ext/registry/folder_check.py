"""A model's folder as MLflow's own loader found it, against the checksums that travel with it and the version's tags.

MLflow compares nothing. It also runs the script of the folder before anything of ours is asked, so whoever can write to
an artifact store can run code where its models are loaded that way; `load_pair` runs nothing from a store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import yaml  # type: ignore[import-untyped]
from mlflow.models import Model

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.registry.model_folder import CHECKSUMS, FILES, folder_digests
from musubi_ext.registry.names import parse_reference
from musubi_ext.registry.store import STORE_ERRORS, connect, first_line, sqlite_path, tracking_uri
from musubi_ext.registry.versions import address, checksums, find_version, folder_checksums

_META = "registered_model_meta"  # written by MLflow beside MLmodel when a model is loaded from the registry

_log = logging.getLogger(__name__)


def check_model_folder(folder: Path) -> None:
    """Raises UserError naming every file of the folder that is missing, added or changed, with both hashes.

    The checksums of MLmodel's metadata always; the tags too when the folder comes from the registry and that answers.
    """
    found = folder_digests(folder)
    version = _registered_as(folder)
    if version is not None:
        files = {f"{FILES}/{name}": digest for name, digest in checksums(version).items()}
        _compare(found, files | folder_checksums(version), address(version))
    travelled = (Model.load(str(folder)).metadata or {}).get(CHECKSUMS)
    if not isinstance(travelled, dict):
        raise UserError(f"{folder}: MLmodel carries no checksums (register the pair again with musubi-ext)")
    _compare({name: digest for name, digest in found.items() if name != "MLmodel"}, travelled, str(folder))


def _compare(found: Mapping[str, str], expected: Mapping[Any, Any], where: str) -> None:
    problems, fix = Problems(), "register the pair again from its training output"
    for name in sorted(map(str, expected.keys() - found.keys())):
        problems.add(where, f"{shown(name)} is missing", fix)
    for name in sorted(found.keys() - expected.keys()):
        problems.add(where, f"{shown(name)} was added since the version was registered", fix)
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            message = f"expected sha256 {shown(str(expected[name])[:64])}, found {found[name]}"
            problems.add(where, f"{shown(name)} changed since it was registered: {message}", fix)
    problems.raise_if_any()


def _registered_as(folder: Path) -> Any:
    """The version that MLflow says it loaded, from the registry it asked; None, with a warning, if that is silent."""
    try:
        meta = yaml.safe_load((folder / _META).read_text(encoding="utf-8"))
        reference = parse_reference(f"{meta['model_name']}/{meta['model_version']}")
    except FileNotFoundError:
        return None  # loaded from a folder: there is no version to ask about
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{folder / _META}: expected model_name and model_version: {first_line(error)}") from error
    try:
        uri = tracking_uri(mlflow.get_registry_uri())
        file = sqlite_path(uri)
        if file is not None and not file.is_file():
            raise UserError(f"no store at {file}")
        version = find_version(connect(uri), reference)
    except (UserError, *STORE_ERRORS) as error:
        _log.warning("%s: only its own checksums were compared, not the tags of the registry: %s", reference, error)
        return None
    return version
