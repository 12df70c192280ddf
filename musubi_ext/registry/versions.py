"""Which versions of a model exist, what an alias points to, and what a version says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.registry.names import ModelReference, check_digest, check_file_name, check_name

FILE_TAG = "sha256."  # + name of one of the pair's files: the checksum that MLflow itself does not keep
FOLDER_TAG = "model.sha256."  # + name of a file beside them, which MLflow's own loader reads: MLmodel, the script, …
_PAGE = 200  # entries asked of a store at a time


def models(client: MlflowClient) -> list[Any]:
    """Every `RegisteredModel`, by name."""
    found = _pages(lambda token: client.search_registered_models(max_results=_PAGE, page_token=token))
    return sorted(found, key=lambda model: str(model.name))


def versions(client: MlflowClient, name: str) -> list[Any]:
    """Every `ModelVersion` of the model `name`, newest first. Raises UserError for a name that is none."""
    where = f"name = '{check_name(name)}'"
    found = _pages(lambda token: client.search_model_versions(where, max_results=_PAGE, page_token=token))
    return sorted(found, key=lambda version: -int(version.version))


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """Alias → version number of the model `name`. Raises UserError when there is no such model."""
    try:
        model = client.get_registered_model(check_name(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(shown(found.name) for found in models(client)) or "none"
        raise UserError(f"no registered model {name!r} (there are: {known})") from error
    return {alias: int(version) for alias, version in model.aliases.items()}


def version_number(client: MlflowClient, reference: ModelReference) -> int:
    """The number `reference` means now. Raises UserError when the model or alias does not exist."""
    pointing = aliases(client, reference.name)
    if reference.version is not None:
        return reference.version
    if reference.alias not in pointing:
        known = ", ".join(f"{alias} = {number}" for alias, number in sorted(pointing.items())) or "none"
        raise UserError(f"{reference}: no alias {reference.alias!r} (aliases of {reference.name}: {known})")
    return pointing[reference.alias]


def find_version(client: MlflowClient, reference: ModelReference) -> Any:
    """The `mlflow.entities.model_registry.ModelVersion` that `reference` means now. Raises UserError when absent."""
    try:  # one question to the store where all is well; only a mistake costs more
        if reference.alias is not None:
            return client.get_model_version_by_alias(reference.name, reference.alias)
        return client.get_model_version(reference.name, str(reference.version))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        number = version_number(client, reference)  # says which models and aliases there are
        known = ", ".join(str(n) for n in sorted(int(found.version) for found in versions(client, reference.name)))
        raise UserError(f"{reference}: no version {number} (there are: {known or 'none'})") from error


def address(version: Any) -> str:
    """`models:/name/3`: what a version is called in messages, whatever alias led to it."""
    return str(ModelReference(version.name, version=int(version.version)))


def checksums(version: Any) -> dict[str, str]:
    """File name → hex SHA-256 of the pair's files, recorded when the version was registered.

    A store can be written by others: raises UserError listing every name that is not a file of a pair and every value
    that is no SHA-256, so that neither becomes a path.
    """
    return _recorded(version, FILE_TAG, check_file_name)


def folder_checksums(version: Any) -> dict[str, str]:
    """The same for the files beside the pair's: path within the model's folder → hex SHA-256. Never used as a path."""
    return _recorded(version, FOLDER_TAG, str)


def _recorded(version: Any, prefix: str, check: Callable[[str], str]) -> dict[str, str]:
    problems, found = Problems(), {}
    for key, value in sorted(version.tags.items()):
        if key.startswith(prefix):
            try:
                found[check(key.removeprefix(prefix))] = check_digest(value)
            except UserError as error:
                problems.add(address(version), str(error), "the version was not registered by musubi-ext")
    problems.raise_if_any()
    return found


def _pages(ask: Callable[[str | None], Any]) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = ask(token)
        found += page
        token = page.token
        if not token:
            return found
