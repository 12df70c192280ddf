"""A pair as the folder MLflow calls a model: MLmodel, the script that runs it, and the three files."""

from __future__ import annotations

import warnings
from pathlib import Path

from mlflow.models import Model

from musubi_ext import __version__
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.registry.signature import input_example, signature

_SCRIPT = Path(__file__).with_name("pair_pyfunc.py")


def save_model_folder(pair: AdapterPair, path: Path) -> Path:
    """Write the folder `path`, which must not exist, with the pair's files under `artifacts`; returns it."""
    with warnings.catch_warnings():
        # mlflow 3.17 warns about type hints of its own classes when this module is imported for the first time.
        warnings.filterwarnings("ignore", "(?s).*Any type hint is inferred as AnyType", UserWarning)
        import mlflow.pyfunc
    mlflow.pyfunc.save_model(
        path=str(path),
        python_model=str(_SCRIPT),
        artifacts={key: str(file) for key, file in pair.files().items()},
        signature=signature(),
        input_example=input_example(),
        model_config={"base": _base(pair), "device": "cpu"},
        pip_requirements=[f"musubi-ext=={__version__}"],
    )
    _forget_machine(path)
    return path


def _base(pair: AdapterPair) -> str:
    """What the pair runs on when nothing else is said: a pocket task by name, else the manifest's serve base."""
    task = str(pair.manifest["task"])
    return task if task.startswith("pocket") else str(pair.manifest["serve_base"])


def _forget_machine(path: Path) -> None:
    """MLflow writes down where script and files came from; those folders of this machine are nobody's business."""
    model = Model.load(str(path))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = _SCRIPT.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(path / "MLmodel"))
