"""A registered pair as an MLflow model: this file travels with the version and is run when the model is loaded.

Input: one row per video with the columns of `musubi_ext.registry.signature`; output: the mp4 files, base64.
"""

import base64
import tempfile
from pathlib import Path

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class PairModel(PythonModel):
    """Makes videos with the three files beside it. `model_config`: base (pipeline folder or task name), device."""

    def load_context(self, context) -> None:
        from musubi_ext.generation.circle_rotate import CircleRotate

        pair = Path(context.artifacts["manifest"]).parent
        config = context.model_config
        self.generate = CircleRotate(base=config["base"], pair=pair, device=config["device"])

    def predict(self, context, model_input: pandas.DataFrame, params=None) -> pandas.DataFrame:
        rows = model_input.to_dict("records")
        return pandas.DataFrame({"video": [self._video(row) for row in rows]})

    def _video(self, row: dict) -> str:
        with tempfile.TemporaryDirectory() as folder:
            settings = {name: value for name, value in row.items() if not pandas.isna(value)}
            pictures = {name: _file(folder, name, settings.pop(name)) for name in ("first", "last") if name in settings}
            width, height = settings.pop("width", None), settings.pop("height", None)
            if width and height:
                settings["size"] = (int(width), int(height))
            video = self.generate(**pictures, **settings)
            path = Path(folder) / "video.mp4"
            video.save(path)
            return base64.b64encode(path.read_bytes()).decode("ascii")


def _file(folder: str, name: str, encoded: str) -> Path:
    """A picture goes through a file, because the checks of format and pixel count are made on opening one."""
    path = Path(folder) / name
    path.write_bytes(base64.b64decode(encoded, validate=True))
    return path


set_model(PairModel())
