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
    """Makes videos with the three files beside it. `model_config`: base (pipeline folder or task name), device."""

    def load_context(self, context: Any) -> None:
        from musubi_ext.generation.circle_rotate import CircleRotate

        pair = Path(context.artifacts["manifest"]).parent
        config = context.model_config
        self.generate = CircleRotate(base=config["base"], pair=pair, device=config["device"])

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
