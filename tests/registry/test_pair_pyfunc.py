"""A registered pair makes a video through MLflow's own loader, on a random pipeline of the pocket's architecture."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import mlflow.artifacts
import numpy as np
import pandas
import pytest
from PIL import Image

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.pocket.config import random_pipeline
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.signature import input_example
from musubi_ext.registry.store import connect
from musubi_ext.video import read_video

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)


@pytest.fixture
def model_folder(pair: AdapterPair, uri: str, tmp_path: Path) -> Path:
    """The version's own folder, as `mlflow.pyfunc.load_model("models:/…")` downloads it."""
    number = register_pair(pair, "circle-rotate", uri=uri)
    source = connect(uri).get_model_version_download_uri("circle-rotate", str(number))
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(tmp_path / "model")))


def picture(colour: tuple[int, int, int]) -> str:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def test_version_makes_the_video_that_the_pair_makes(model_folder: Path, pair: AdapterPair, tmp_path: Path) -> None:
    import mlflow.pyfunc

    base = random_pipeline(tmp_path / "base")
    model = mlflow.pyfunc.load_model(str(model_folder), model_config={"base": str(base)})
    settings = {"prompt": "camera circles right to left", "seed": 3, "steps": 2, "frames": 5, "width": 32, "height": 32}
    table = pandas.DataFrame([{**settings, "first": picture((200, 30, 30))}])
    encoded = model.predict(table)["video"][0]
    path = tmp_path / "video.mp4"
    path.write_bytes(base64.b64decode(encoded))
    frames, _ = read_video(path)
    assert frames.shape == (5, 32, 32, 3)

    first = tmp_path / "first.png"
    first.write_bytes(base64.b64decode(picture((200, 30, 30))))
    expected = tmp_path / "expected.mp4"
    given = {"steps": 2, "frames": 5, "size": (32, 32), "seed": 3}
    CircleRotate(base, pair)(first, "camera circles right to left", **given).save(expected)
    np.testing.assert_array_equal(frames, read_video(expected)[0])
    alone = CircleRotate(base)(first, "camera circles right to left", **given)
    assert np.abs(frames.astype(int) - alone.frames).mean() > 1  # the adapters were really in the experts

    with pytest.raises(UserError, match="not a readable PNG"):
        model.predict(table.assign(first=base64.b64encode(b"<svg/>").decode()))
    with pytest.raises(UserError, match="first: expected a picture file as base64"):
        model.predict(table.assign(first="no base64!"))
    with pytest.raises(UserError, match="height: give width and height together"):
        model.predict(table.drop(columns="width"))


def test_signature_is_stored_and_its_example_fits_it(model_folder: Path) -> None:
    from mlflow.models import Model

    model = Model.load(str(model_folder))
    assert set(input_example()) <= set(model.signature.inputs.input_names())
    assert model.signature.inputs.required_input_names() == ["prompt", "first"]
    assert model.flavors["python_function"]["loader_module"] == "mlflow.pyfunc.loaders.code_model"
