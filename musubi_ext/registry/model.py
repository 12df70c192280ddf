"""The pair as a version in MLflow's model registry: three files, their checksums in tags, no pickle anywhere."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import Problems, UserError
from musubi_ext.registry.model_folder import save_model_folder
from musubi_ext.registry.names import ModelReference, check_name, check_run_id, parse_reference
from musubi_ext.registry.store import EXPERIMENT, STORE_ERRORS, connect, experiment_id, first_line, tracking_uri
from musubi_ext.registry.versions import FILE_TAG, checksums, find_version
from musubi_ext.storage import sha256


def register_pair(
    pair: AdapterPair,
    name: str,
    *,
    evaluation: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    uri: str | None = None,
    experiment: str = EXPERIMENT,
) -> int:
    """Store `pair` as a new version of the model `name` and return its number. No alias is moved.

    The files go to the artifacts of `run_id` (the pair's training run), or of a run made for it. `evaluation`: metric →
    number, kept as tags. Raises UserError for a bad name, a damaged pair or a store that does not answer.
    """
    check_name(name)
    pair.verify()
    uri = tracking_uri(uri)
    client = connect(uri)
    run = check_run_id(run_id) if run_id else _new_run(client, name, experiment, uri)
    with tempfile.TemporaryDirectory() as folder:
        path = save_model_folder(pair, Path(folder) / "model")
        files = sorted((path / "artifacts").iterdir())
        tags = {FILE_TAG + file.name: sha256(file) for file in files}
        target = f"pair-{sha256(pair.path)[:12]}"  # by content: registering again never changes what a version holds
        client.log_artifacts(run, str(path), target)
    if not run_id:
        client.set_terminated(run)
    tags |= {f"evaluation.{key}": str(value) for key, value in (evaluation or {}).items()}
    _create_model(client, name)
    version = client.create_model_version(name, f"runs:/{run}/{target}", run_id=run, tags={**_tags(pair), **tags})
    return int(version.version)


def load_pair(reference: str, *, uri: str | None = None, destination: Path | str | None = None) -> AdapterPair:
    """The pair that `models:/name@alias` or `models:/name/3` means now, its files checked against the version's tags.

    The files are copied to `destination`, or to a temporary folder that lives as long as the returned pair. Raises
    UserError naming every file that is missing, added or changed since registration.
    """
    parsed = parse_reference(reference)
    uri = tracking_uri(uri)
    client = connect(uri)
    version = find_version(client, parsed)
    folder = Path(destination) if destination else Path(tempfile.mkdtemp(prefix="musubi-ext-pair-"))
    try:
        files = _download(client, version, folder, uri)
        _verify(files, checksums(version), ModelReference(parsed.name, version=int(version.version)))
        pair = AdapterPair.load(files)
    except BaseException:
        if not destination:
            shutil.rmtree(folder)
        raise
    if not destination:
        weakref.finalize(pair, shutil.rmtree, folder, ignore_errors=True)
    return pair


def _new_run(client: MlflowClient, name: str, experiment: str, uri: str) -> str:
    run = client.create_run(experiment_id(client, experiment, uri), run_name=f"register {name}")
    return str(run.info.run_id)


def _create_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tags(pair: AdapterPair) -> dict[str, str]:
    """What one wants to see of a version without opening it."""
    shown = ("task", "train_base", "serve_base", "boundary", "dataset_fingerprint")
    return {f"pair.{key}": str(pair.manifest[key]) for key in shown if pair.manifest.get(key) is not None}


def _download(client: MlflowClient, version: Any, folder: Path, uri: str) -> Path:
    source = client.get_model_version_download_uri(version.name, str(version.version))
    try:
        local = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{source.rstrip('/')}/artifacts", dst_path=str(folder), tracking_uri=uri
        )
    except STORE_ERRORS as error:
        raise UserError(f"models:/{version.name}/{version.version}: its files are gone: {first_line(error)}") from error
    return Path(local)


def _verify(folder: Path, expected: Mapping[str, str], reference: ModelReference) -> None:
    problems = Problems()
    found = {path.name: sha256(path) for path in folder.iterdir()}
    if not expected:
        problems.add(reference, "the version carries no checksums", "register the pair again with musubi-ext")
    for name, digest in expected.items():
        if name not in found:
            problems.add(reference, f"{name} is missing from the artifact store", "register the pair again")
        elif found[name] != digest:
            problems.add(
                reference,
                f"{name} changed since it was registered: expected sha256 {digest[:12]}…, found {found[name][:12]}…",
                "register the pair again from its training output",
            )
    for name in sorted(found.keys() - expected.keys()):
        problems.add(reference, f"{name} was added since the version was registered", "register the pair again")
    problems.raise_if_any()
