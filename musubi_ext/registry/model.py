"""The pair as a version in MLflow's model registry: three files, their checksums in tags, no pickle anywhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from musubi_ext.adapters.manifest import read_manifest
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import Problems, UserError
from musubi_ext.registry.downloads import cached, content_key
from musubi_ext.registry.model_folder import FILES, save_model_folder
from musubi_ext.registry.names import check_file_name, check_name, check_run_id, parse_reference, shown
from musubi_ext.registry.runs import resolve_run_id
from musubi_ext.registry.store import EXPERIMENT, STORE_ERRORS, connect, experiment_id, first_line, tracking_uri
from musubi_ext.registry.users import REGISTERED_BY, current_user
from musubi_ext.registry.versions import FILE_TAG, FOLDER_TAG, address, checksums, find_version
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import sha256

TARGET = "pair-"  # + 12 digits of its files' key and of its MLmodel's hash: a version's artifact folder in its run
_LONGEST_TAG = 500  # characters of what a manifest says of itself


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
    if run_id is not None:
        check_run_id(run_id)
    user = current_user()
    _check_file_names(pair)
    pair.verify()
    uri = tracking_uri(uri)
    client = connect(uri)
    run = run_id or _new_run(client, name, experiment, uri)
    status = "FAILED"
    try:
        target, tags = _upload(client, pair, run)
        status = "FINISHED"
    except STORE_ERRORS as error:
        raise UserError(f"run {run}: its artifact store does not take the pair: {first_line(error)}") from error
    finally:
        if not run_id:
            client.set_terminated(run, status)
    tags |= {f"evaluation.{key}": str(value) for key, value in (evaluation or {}).items()}
    tags[REGISTERED_BY] = user
    _create_model(client, name)
    version = client.create_model_version(name, f"runs:/{run}/{target}", run_id=run, tags={**_tags(pair), **tags})
    return int(version.version)


def training_run(client: MlflowClient, pair: AdapterPair) -> str | None:
    """The run that the pair's manifest says it was trained in, if this store has it; None otherwise."""
    training = pair.manifest.get("training")
    named = training.get("mlflow_run") if isinstance(training, dict) else None
    try:
        run_id = resolve_run_id(client, str(named))  # it may have begun while the store was away
        run = client.get_run(run_id) if run_id else None
    except (UserError, MlflowException):
        return None  # trained without tracking, or with another store
    return str(run.info.run_id) if run is not None and run.info.lifecycle_stage == "active" else None


def load_pair(reference: str, *, uri: str | None = None, destination: Path | str | None = None) -> AdapterPair:
    """The pair that `models:/name@alias` or `models:/name/3` means now, its files checked against the version's tags.

    Its files lie in the cache (see downloads.py) and are not to be written to, or in `destination` as a copy. Raises
    UserError naming every file that is missing, added or changed since registration.
    """
    parsed = parse_reference(reference)
    client = connect(tracking_uri(uri))
    version = find_version(client, parsed)
    folder = cached(client, version)
    if destination:
        folder = _copied(folder, Path(destination), checksums(version))
    return open_pair(folder, version)


def open_pair(folder: Path, version: Any) -> AdapterPair:
    """The pair in a folder whose files were found to be those of the version; the tensors are not read again.

    Raises UserError when the manifest, whoever wrote it, names other files or other checksums than the version does.
    """
    expected = checksums(version)
    path = folder / next(name for name in expected if name.endswith(".json"))
    manifest, problems = read_manifest(path), Problems()
    for expert in Expert:
        entry = manifest["experts"][expert.value]
        if expected.get(entry["file"]) != entry["sha256"]:
            named = f"experts.{expert.value}: {shown(str(entry['file']))} with sha256 {shown(str(entry['sha256']))}"
            problems.add(f"{address(version)}: {path.name}", f"{named} is no file of the version", "register it again")
    problems.raise_if_any()
    return AdapterPair(path, manifest)


def _check_file_names(pair: AdapterPair) -> None:
    problems = Problems()
    for file in pair.files().values():
        problems.collect(lambda name=file.name: check_file_name(name))  # type: ignore[misc]
    problems.raise_if_any()


def _upload(client: MlflowClient, pair: AdapterPair, run: str) -> tuple[str, dict[str, str]]:
    """The artifact folder, named by content so that registering again never changes what a version holds; its tags."""
    inside = f"{FILES}/"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        digests = save_model_folder(pair, path)
        files = {name.removeprefix(inside): digest for name, digest in digests.items() if name.startswith(inside)}
        beside = {name: digest for name, digest in digests.items() if not name.startswith(inside)}
        target = f"{TARGET}{content_key(files)[:12]}-{beside['MLmodel'][:12]}"  # MLmodel names the hashes of all others
        client.log_artifacts(run, str(path), target)
    tags = {FILE_TAG + name: digest for name, digest in files.items()}
    return target, tags | {FOLDER_TAG + name: digest for name, digest in beside.items()}


def _copied(source: Path, destination: Path, expected: Mapping[str, str]) -> Path:
    """Copies of the files, writable, compared once more: what is copied may change while it is read."""
    destination.mkdir(parents=True, exist_ok=True)
    problems = Problems()
    for name, digest in expected.items():
        copy = Path(shutil.copyfile(source / name, destination / name))
        if (found := sha256(copy)) != digest:
            problems.add(copy, f"expected sha256 {digest}, found {found}", "the disk is full or failing")
    problems.raise_if_any()
    return destination


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
    told = ("task", "train_base", "serve_base", "boundary", "dataset_fingerprint")
    return {f"pair.{key}": str(pair.manifest[key])[:_LONGEST_TAG] for key in told if pair.manifest.get(key) is not None}
