"""A registered pair makes a video through MLflow's own loader, on a random pipeline of the pocket's architecture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.artifacts
import numpy as np
import pandas
import pytest
from PIL import Image

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.pocket.config import SHIPPED, random_pipeline
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.signature import input_example
from musubi_ext.registry.store import connect
from musubi_ext.storage import sha256
from musubi_ext.video import read_video


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


@pytest.fixture
def named(uri: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """MLflow's own loader, told of the store in MLflow's own way."""
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return mlflow.pyfunc.load_model


def champion(pair: AdapterPair, uri: str) -> Path:
    """Register the pair, make it the champion; its folder in the artifact store."""
    number = str(register_pair(pair, "circle-rotate", uri=uri))
    client = connect(uri)
    client.set_registered_model_alias("circle-rotate", "champion", number)
    _, run, target = client.get_model_version_download_uri("circle-rotate", number).split("/")
    return next(path for path in Path("mlartifacts").rglob(target) if run in path.parts)


def test_champion_makes_videos_on_the_pocket_base_from_first_and_last(
    other_pair: Callable[..., AdapterPair], uri: str, named: Callable[..., Any], tmp_path: Path
) -> None:
    champion(other_pair("pocket", size=SHIPPED), uri)
    model = named("models:/circle-rotate@champion")
    row = {
        "prompt": "the camera circles right to left",
        "first": picture((200, 30, 30)),
        "last": picture((30, 200, 30)),
    }
    small = {"steps": 2, "frames": 5, "width": 32, "height": 32}
    table = pandas.DataFrame([{**row, **small, "seed": seed} for seed in (3, 3, 4)])
    videos = list(model.predict(table)["video"])
    assert videos[0] == videos[1] != videos[2]
    path = tmp_path / "video.mp4"
    path.write_bytes(base64.b64decode(videos[0]))
    assert read_video(path)[0].shape == (5, 32, 32, 3)
    other_end = model.predict(table.iloc[:1].assign(last=picture((30, 30, 200))))["video"][0]
    assert other_end != videos[0]


def test_a_pair_of_other_weights_asks_for_its_base(
    other_pair: Callable[..., AdapterPair], uri: str, named: Callable[..., Any], tiny_pipeline: Path
) -> None:
    champion(other_pair("wan", task="i2v-A14B", serve_base="../../secret/folder"), uri)
    with pytest.raises(UserError, match="give the folder of that pipeline"):
        named("models:/circle-rotate@champion")
    assert named("models:/circle-rotate@champion", model_config={"base": str(tiny_pipeline)}) is not None


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["orbit.pair.json", "orbit_h.safetensors", "orbit_l.safetensors"])
def test_one_changed_bit_is_refused_by_the_loaded_model_itself(
    pair: AdapterPair, uri: str, named: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    folder = champion(pair, uri)
    flip(folder / "artifacts" / name)
    message = f"artifacts/{name} changed .* expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}"
    with pytest.raises(UserError, match=f"models:/circle-rotate/1: {message}"):
        named("models:/circle-rotate@champion")
    (folder / "registered_model_meta").unlink(missing_ok=True)
    with pytest.raises(UserError, match=message):  # a copy of the folder, with no registry in sight
        named(str(folder))


def test_changed_bits_and_checksums_that_agree_are_refused_by_the_tags(
    pair: AdapterPair, uri: str, named: Callable[..., Any]
) -> None:
    from mlflow.models import Model

    folder = champion(pair, uri)
    flip(folder / "input_example.json")
    model = Model.load(str(folder))
    model.metadata = {
        "sha256": {**model.metadata["sha256"], "input_example.json": sha256(folder / "input_example.json")}
    }
    (folder / "MLmodel").unlink()
    model.save(str(folder / "MLmodel"))
    with pytest.raises(UserError) as told:
        named("models:/circle-rotate@champion")
    assert [line.split(": ")[1].split()[0] for line in told.value.problems] == ["MLmodel", "input_example.json"]


def test_a_registry_that_does_not_know_the_version_is_said_and_the_own_checksums_count(
    pair: AdapterPair,
    uri: str,
    named: Callable[..., Any],
    tiny_pipeline: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = champion(pair, uri)
    (folder / "registered_model_meta").write_text("model_name: circle-rotate\nmodel_version: 9\n")
    base = {"base": str(tiny_pipeline)}
    for store in (uri, "sqlite:///absent/mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
        caplog.clear()
        assert named(str(folder), model_config=base) is not None
        assert "models:/circle-rotate/9: only its own checksums were compared" in caplog.text
    assert not Path("absent").exists()
    flip(folder / "artifacts" / "orbit_h.safetensors")
    with pytest.raises(UserError, match=r"orbit_h\.safetensors changed"):
        named(str(folder), model_config=base)


def test_added_and_missing_files_are_refused(pair: AdapterPair, uri: str, named: Callable[..., Any]) -> None:
    folder = champion(pair, uri)
    (folder / "artifacts" / "orbit_l.safetensors").rename(folder / "artifacts" / "python_model.pkl")
    with pytest.raises(UserError) as told:
        named("models:/circle-rotate@champion")
    assert ["is missing" in line or "was added" in line for line in told.value.problems] == [True, True]


@pytest.mark.parametrize(
    "meta", ["", "[]", "model_name: ../../x\nmodel_version: 1", "model_name: [1]\nmodel_version: 1"]
)
def test_a_hostile_note_of_where_it_came_from_is_refused(
    pair: AdapterPair, uri: str, named: Callable[..., Any], meta: str
) -> None:
    folder = champion(pair, uri)
    (folder / "registered_model_meta").write_text(meta)
    with pytest.raises(UserError):
        named(str(folder))


def test_no_file_of_a_version_is_a_pickle_and_the_same_pair_gives_the_same_folder(
    pair: AdapterPair, uri: str, tmp_path: Path
) -> None:
    folders = [champion(pair, uri) for _ in range(2)]
    assert folders[0].name == folders[1].name
    listings = [
        {file.relative_to(folder): sha256(file) for file in folder.rglob("*") if file.is_file()} for folder in folders
    ]
    assert listings[0] == listings[1]
    assert not [name for name in listings[0] if name.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin")]
    assert not [file for file in folders[0].rglob("*") if file.is_file() and file.read_bytes()[:2] == b"\x80\x04"]
