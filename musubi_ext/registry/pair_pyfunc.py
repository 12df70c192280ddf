"""A registered pair as an MLflow model: this file travels with the version and is run when the model is loaded.

Input: one row per video with the columns of `musubi_ext.registry.signature`; output: the mp4 files, base64.
"""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

import pandas  # type: ignore[import-untyped]
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from musubi_ext.errors import UserError


class PairModel(PythonModel):  # type: ignore[misc]  # mlflow is untyped here
    """Makes videos with the three files beside it. `model_config`: base (pipeline folder or pocket-i2v), device."""

    def load_context(self, context: Any) -> None:
        """Raises UserError for a file that is not the registered one, and for a base that cannot be used."""
        from musubi_ext.generation.circle_rotate import CircleRotate
        from musubi_ext.registry.folder_check import check_model_folder

        manifest = Path(context.artifacts["manifest"])
        check_model_folder(manifest.parents[1])
        config = context.model_config
        self.generate = CircleRotate(base=_base(config["base"], manifest), pair=manifest, device=config["device"])

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        rows = model_input.to_dict("records")
        return pandas.DataFrame({"video": [self._video(row) for row in rows]})

    def _video(self, row: dict[str, Any]) -> str:
        settings = {name: value for name, value in row.items() if not pandas.isna(value)}
        _join_size(settings)
        with tempfile.TemporaryDirectory() as folder:
            for name in {"first", "last"} & settings.keys():
                settings[name] = _file(folder, name, settings[name])
            path = Path(folder) / "video.mp4"
            self.generate(**settings).save(path)
            return base64.b64encode(path.read_bytes()).decode("ascii")


def _base(given: str, manifest: Path) -> str:
    """What the caller gave. Only the pocket model is known by name; nothing that a store says becomes a folder."""
    from musubi_ext.adapters.manifest import read_manifest
    from musubi_ext.registry.model_folder import NO_BASE

    if given == NO_BASE:
        raise UserError(
            f"this pair runs on {read_manifest(manifest)['serve_base']!r}: give the folder of that pipeline, "
            'mlflow.pyfunc.load_model(…, model_config={"base": FOLDER})'
        )
    return given


def _join_size(settings: dict[str, Any]) -> None:
    """Columns `width` and `height` become `size`; one without the other is a mistake."""
    given = {"width", "height"} & settings.keys()
    if len(given) == 1:
        raise UserError(f"{given.pop()}: give width and height together, or neither")
    if given:
        settings["size"] = (settings.pop("width"), settings.pop("height"))


def _file(folder: str, name: str, encoded: str) -> Path:
    """A picture goes through a file, because the checks of format and pixel count are made on opening one."""
    path = Path(folder) / name
    try:
        path.write_bytes(base64.b64decode(encoded, validate=True))
    except binascii.Error as error:
        raise UserError(f"{name}: expected a picture file as base64: {error}") from error
    return path


set_model(PairModel())
