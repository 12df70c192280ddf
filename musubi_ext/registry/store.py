"""Where MLflow keeps things: a SQLite file in the working directory by default, any tracking URI otherwise."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from musubi_ext.errors import UserError

EXPERIMENT = "musubi-ext"
# What a store that is absent, full or refusing raises; the last two where a proxy answers in its place.
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError, json.JSONDecodeError, ParseError)

# With MLflow's own defaults a dead server holds a call for four minutes; with these, 2.5 s. Explicit settings are kept.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # we say where a run is ourselves
}
_SERVERS = ("http", "https", "databricks")
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SQLITE = "sqlite:///"
_SQLITE_MAGIC = b"SQLite format 3\0"
_PROBE_SECONDS = 5.0
_REMEDY = "start it, give another --mlflow_tracking_uri, or train with --no_mlflow"


class StoreAway(UserError):  # noqa: N818 - what happened, not what is wrong with the input
    """Nothing answers where the store should be; it may later."""


def tracking_uri(option: str | None = None) -> str:
    """The store to use: `option`, else $MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory.

    A SQLite path is made absolute, so that a process started elsewhere means the same file. Raises UserError for a
    folder or a `file:` URI, which MLflow 3 no longer takes.
    """
    uri = option or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    path = sqlite_path(uri)
    if path is not None:
        return _SQLITE + path.as_posix()
    if _scheme(uri) not in (*_SERVERS, *_DATABASE_PORTS):
        raise UserError(
            f"tracking URI {without_password(uri)}: expected sqlite:///FILE, http(s)://…, postgresql://… or mysql://… "
            "(a folder is no longer a store in MLflow 3: write sqlite:///FOLDER/mlflow.db)"
        )
    return uri


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a `sqlite:///` URI; None for any other kind."""
    return (Path.cwd() / uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def artifact_location(uri: str) -> str | None:
    """URI of the `mlartifacts` folder beside a SQLite file, or in the working directory for a bare database.

    None where a server decides for itself.
    """
    if _scheme(uri) in _SERVERS:
        return None
    path = sqlite_path(uri)
    return ((path.parent if path else Path.cwd()) / "mlartifacts").as_uri()


def without_password(uri: str) -> str:
    """`uri` as it may be shown: a password in it is replaced by ***."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`, which has answered once. Raises UserError, within seconds, when it does not.

    StoreAway when nothing is there now; another UserError when what is there is no store.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:  # it announces every table it creates
        logging.getLogger("mlflow").setLevel(logging.WARNING)
    path = sqlite_path(uri)
    if path is not None and (problem := _unusable_file(path)):
        raise UserError(f"tracking store {without_password(uri)}: {problem} ({_REMEDY})")
    if path is None and (problem := _unreachable(uri)):
        raise StoreAway(f"tracking store {without_password(uri)}: {problem} ({_REMEDY})")
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except STORE_ERRORS as error:
        kind = StoreAway if no_answer(error) else UserError
        raise kind(f"tracking store {without_password(uri)}: {first_line(error)} ({_REMEDY})") from error
    return client


def no_answer(error: BaseException) -> bool:
    """Whether a call failed before a store said anything: nobody there, a timeout, or a proxy's 502 and 503."""
    return isinstance(error, requests.RequestException) or isinstance(error.__context__, requests.RequestException)


def experiment_id(client: MlflowClient, name: str, uri: str, artifacts: str | None = None) -> str:
    """Id of the experiment `name`; if it is new it is created, its artifacts at `artifacts` or beside the store."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts or artifact_location(uri)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was first
    if found.lifecycle_stage != "active":
        raise UserError(f"experiment {name!r} is deleted: `mlflow experiments restore` it, or name another")
    return str(found.experiment_id)


def first_line(error: BaseException) -> str:
    """The kind of error and its first line: enough to act on, without a driver's page of context."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def _scheme(uri: str) -> str:
    return urlsplit(uri).scheme.partition("+")[0] or uri  # "databricks" alone is a tracking URI


def _unreachable(uri: str) -> str | None:
    """Why the store cannot be there, or None: MLflow itself retries a dead database for 100 s before it says so."""
    parts = urlsplit(uri)
    if not parts.hostname:
        return None
    scheme = _scheme(uri)
    port = parts.port or {"http": 80, "https": 443, **_DATABASE_PORTS}.get(scheme, 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        return f"nothing answers at {parts.hostname}:{port}: {error}"
    return None


def _unusable_file(path: Path) -> str | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab"):
            pass
        with open(path, "rb") as file:
            start = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        return f"the file cannot be opened: {error}"
    return None if start in (b"", _SQLITE_MAGIC) else "the file exists and is not a SQLite database"
