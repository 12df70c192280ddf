"""A pair as the folder MLflow calls a model: MLmodel, the script that runs it, and the three files."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from mlflow.models import Model

from musubi_ext import __version__
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import Problems
from musubi_ext.registry.signature import input_example, signature
from musubi_ext.storage import sha256

CHECKSUMS = "sha256"  # key of MLmodel's metadata: path within the folder → checksum, of every file but MLmodel
FILES = "artifacts"  # the folder of the pair's three files within the model's
NO_BASE = ""  # `base` of a pair that runs on weights which are not ours to ship: whoever loads it names them

_SCRIPT = Path(__file__).with_name("pair_pyfunc.py")
_NOT_OURS = frozenset({"registered_model_meta", "__pycache__"})  # written on loading, by MLflow and by Python


def save_model_folder(pair: AdapterPair, path: Path) -> dict[str, str]:
    """Write the folder `path`, which must not exist, with the pair's files under `artifacts`; returns folder_digests.

    The same pair gives the same bytes with the same versions of MLflow and Python. The pair's files are links to where
    they lie: MLflow follows them when it uploads, and 300 MB are not written once more. Raises UserError for a file
    that is no longer what the manifest says.
    """
    with warnings.catch_warnings():
        # mlflow 3.17 warns about type hints of its own classes when this module is imported for the first time.
        warnings.filterwarnings("ignore", "(?s).*Any type hint is inferred as AnyType", UserWarning)
        import mlflow.pyfunc
    files = pair.files()
    with tempfile.TemporaryDirectory() as stand_ins:
        for file in files.values():
            (Path(stand_ins) / file.name).touch()
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(_SCRIPT),
            artifacts={key: str(Path(stand_ins) / file.name) for key, file in files.items()},
            signature=signature(),
            input_example=input_example(),
            model_config={"base": _base(pair), "device": "cpu"},
            pip_requirements=[f"musubi-ext=={__version__}"],
        )
    for file in files.values():
        (path / FILES / file.name).unlink()
        (path / FILES / file.name).symlink_to(file.absolute())
    digests = _finish(path)
    _check_unchanged(pair, digests)
    return digests | {"MLmodel": sha256(path / "MLmodel")}


def folder_digests(path: Path) -> dict[str, str]:
    """Path within the model's folder → SHA-256 of every file that belongs to it."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    inside = {file.relative_to(path): file for file in files}
    return {name.as_posix(): sha256(file) for name, file in inside.items() if not _NOT_OURS & set(name.parts)}


def _check_unchanged(pair: AdapterPair, digests: dict[str, str]) -> None:
    """The pair was verified before; a training that writes to its folder may have gone on since."""
    problems = Problems()
    for entry in pair.manifest["experts"].values():
        if (found := digests[f"{FILES}/{entry['file']}"]) != entry["sha256"]:
            expected = f"expected sha256 {entry['sha256']}, found {found}"
            problems.add(pair.path.with_name(entry["file"]), expected, "it is being written to: register it afterwards")
    problems.raise_if_any()


def _base(pair: AdapterPair) -> str:
    """What the pair runs on when nothing else is said: the pocket model by name, else nothing.

    A manifest's `serve_base` names a repository; as a `base` it would be taken for a folder of whoever loads it.
    """
    task = str(pair.manifest["task"])
    return task if task.startswith("pocket") else NO_BASE


def _finish(path: Path) -> dict[str, str]:
    """Checksums into MLmodel, and returned; out of it what differs from one machine and moment to the next.

    MLflow writes down where script and files came from, which is nobody's business, a time and a random id.
    """
    model = Model.load(str(path))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = _SCRIPT.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    del model.utc_time_created, model.model_uuid
    (path / "MLmodel").unlink()
    model.model_size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    digests = folder_digests(path)
    model.metadata = {CHECKSUMS: digests}
    model.save(str(path / "MLmodel"))
    return digests
