"""Which versions of a model exist, what an alias points to, and what a version says about itself."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from musubi_ext.errors import UserError
from musubi_ext.registry.names import ModelReference, check_name

FILE_TAG = "sha256."  # + file name: the checksum that MLflow itself does not keep


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """Alias → version number of the model `name`. Raises UserError when there is no such model."""
    try:
        model = client.get_registered_model(check_name(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(sorted(found.name for found in client.search_registered_models())) or "none"
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
    number = version_number(client, reference)
    try:
        return client.get_model_version(reference.name, str(number))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        there = client.search_model_versions(f"name = '{reference.name}'")
        known = ", ".join(str(n) for n in sorted(int(version.version) for version in there)) or "none"
        raise UserError(f"{reference}: no version {number} (there are: {known})") from error


def checksums(version: Any) -> dict[str, str]:
    """File name → hex SHA-256 recorded when the version was registered."""
    return {key.removeprefix(FILE_TAG): value for key, value in version.tags.items() if key.startswith(FILE_TAG)}
