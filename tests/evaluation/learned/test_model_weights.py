"""Where weights are looked for, and every way in which a file there can be the wrong one."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from musubi_ext.evaluation.features import PINNED, ModelSource, Network
from musubi_ext.evaluation.features.loaded import loaded
from musubi_ext.evaluation.features.located import locate
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.video import Frames

CLIP, DINO = "clip-vit-base-patch32", "dino-vitb16"
FRAMES = np.zeros((2, 40, 40, 3), np.uint8)

ASK: dict[Network, Callable[[ModelSource], object]] = {
    Network.CLIP: lambda models: models.clip_image(FRAMES),
    Network.DINO: lambda models: models.dino(FRAMES),
    Network.LPIPS: lambda models: models.lpips(FRAMES, FRAMES),
    Network.INCEPTION: lambda models: models.inception(FRAMES),
    Network.I3D: lambda models: models.i3d(FRAMES),
}


class Malicious:
    """What a hostile checkpoint holds: unpickling it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def refusal(network: Network, models: ModelSource) -> str:
    with pytest.raises(UnavailableError) as refused:
        ASK[network](models)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def copied(weights: Path, tmp_path: Path) -> Path:
    """A folder of weights to spoil."""
    return Path(shutil.copytree(weights, tmp_path / "copied"))


class TestAbsent:
    @pytest.mark.parametrize(
        ("network", "expected", "how"),
        [
            (Network.CLIP, "openai/clip-vit-base-patch32 at revision 3d74acf9", "as clip-vit-base-patch32/"),
            (Network.DINO, "facebook/dino-vitb16 at revision f205d5d8", "as dino-vitb16/"),
            (Network.LPIPS, "lpips_alex.safetensors or lpips_alex.pth", "alex.pth as lpips_alex.pth"),
        ],
    )
    def test_says_where_what_and_how(self, network: Network, expected: str, how: str, tmp_path: Path) -> None:
        reason = refusal(network, ModelSource(tmp_path))
        assert f"not found in {tmp_path} nor in" in reason
        assert expected in reason
        assert how in reason
        assert "offline=False" in reason

    def test_without_a_folder(self) -> None:
        assert "no models folder was given nor in the local hub cache" in refusal(Network.CLIP, ModelSource())

    def test_lpips_needs_alexnet_too(self, copied: Path) -> None:
        (copied / "alexnet.safetensors").unlink()
        reason = refusal(Network.LPIPS, ModelSource(copied))
        assert "alexnet-owt-7be5be79.pth" in reason
        assert "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth" in reason

    @pytest.mark.parametrize("lacking", ["config.json", "model.safetensors"])
    def test_half_a_model_is_not_looked_for_elsewhere(self, lacking: str, copied: Path) -> None:
        (copied / CLIP / lacking).unlink()
        assert re.search(f"{copied / CLIP} lacks .*{lacking}", refusal(Network.CLIP, ModelSource(copied)))

    def test_weights_are_found_when_they_come_later(self, weights: Path, tmp_path: Path) -> None:
        models = ModelSource(tmp_path / "later")
        refusal(Network.DINO, models)
        shutil.copytree(weights / DINO, tmp_path / "later" / "facebook" / DINO)
        assert models.dino(FRAMES).shape == (2, 24)


class TestLocalCache:
    @pytest.fixture(autouse=True)
    def nothing_loaded(self) -> None:
        """Sources without a folder are equal, and the process keeps what one of them loaded."""
        loaded.cache_clear()

    def in_cache(self, weights: Path, cache: Path, revision: str) -> None:
        repository = cache / "hub" / f"models--openai--{CLIP}"
        shutil.copytree(weights / CLIP, repository / "snapshots" / revision)

    def test_the_pinned_revision_is_taken_and_named(self, weights: Path, empty_caches: Path) -> None:
        self.in_cache(weights, empty_caches, str(PINNED[Network.CLIP].revision))
        models = ModelSource()
        assert models.clip_image(FRAMES).shape == (2, 24)
        assert "openai/clip-vit-base-patch32@3d74acf9a28c sha256 " in models.backend(Network.CLIP)

    def test_another_revision_is_not(self, weights: Path, empty_caches: Path) -> None:
        self.in_cache(weights, empty_caches, "0" * 40)
        assert "3d74acf9" in refusal(Network.CLIP, ModelSource())

    def test_the_folder_goes_first(self, weights: Path, empty_caches: Path) -> None:
        self.in_cache(weights, empty_caches, str(PINNED[Network.CLIP].revision))
        assert "@" not in ModelSource(weights).backend(Network.CLIP)

    def test_torch_checkpoints(self, weights: Path, copied: Path, empty_caches: Path) -> None:
        checkpoints = empty_caches / "torch" / "checkpoints"
        checkpoints.mkdir(parents=True)
        torch.save(load_file(copied / "alexnet.safetensors"), checkpoints / "alexnet-owt-7be5be79.pth")
        (copied / "alexnet.safetensors").unlink()
        expected = ModelSource(weights).lpips(FRAMES, FRAMES + 90)
        models = ModelSource(copied)
        assert models.lpips(FRAMES, FRAMES + 90) == pytest.approx(expected, rel=1e-6)
        assert "not the pinned weights" in models.backend(Network.LPIPS).split(", lpips")[0]


class TestDownload:
    @pytest.fixture
    def published(self, tmp_path: Path) -> Path:
        path = tmp_path / "published.pth"
        path.write_bytes(b"weights")
        return path

    def test_only_when_asked_for_and_kept_in_the_cache(self, published: Path, empty_caches: Path) -> None:
        digest = hashlib.sha256(b"weights").hexdigest()
        pinned = replace(PINNED[Network.LPIPS], url=published.as_uri(), sha256=digest)
        with pytest.raises(UnavailableError):
            locate(pinned, None, offline=True)
        found = locate(pinned, None, offline=False)
        assert found.weights == empty_caches / "torch" / "checkpoints" / "lpips_alex.pth"
        assert found.weights.read_bytes() == b"weights"
        assert locate(pinned, None, offline=True) == found
        assert found.identity(pinned) == f"lpips_alex.pth sha256 {digest[:12]}"

    def test_other_bytes_are_not_kept(self, published: Path, empty_caches: Path) -> None:
        pinned = replace(PINNED[Network.LPIPS], url=published.as_uri())
        with pytest.raises(UnavailableError, match=r"lpips_alex\.pth: the download failed: invalid hash"):
            locate(pinned, None, offline=False)
        assert not list((empty_caches / "torch" / "checkpoints").iterdir())

    def test_no_way_to_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UnavailableError, match="openai/clip-vit-base-patch32: the download failed: "):
            locate(PINNED[Network.CLIP], None, offline=False)


class TestSpoiled:
    @pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x02}q\x00."])
    @pytest.mark.parametrize(
        ("network", "file"),
        [
            (Network.CLIP, f"{CLIP}/model.safetensors"),
            (Network.DINO, f"{DINO}/model.safetensors"),
            (Network.LPIPS, "alexnet.safetensors"),
            (Network.LPIPS, "lpips_alex.pth"),
            (Network.INCEPTION, "inception-2015-12-05.pt"),
            (Network.I3D, "i3d_torchscript.pt"),
        ],
    )
    def test_other_bytes(self, network: Network, file: str, content: bytes, copied: Path, models: ModelSource) -> None:
        (copied / file).write_bytes(content)
        assert str(copied / file) in refusal(network, replace(models, folder=copied))

    @pytest.mark.parametrize(
        ("network", "file"),
        [
            (Network.CLIP, f"{CLIP}/model.safetensors"),
            (Network.LPIPS, "alexnet.safetensors"),
            (Network.LPIPS, "lpips_alex.pth"),
            (Network.INCEPTION, "inception-2015-12-05.pt"),
        ],
    )
    def test_cut_short(self, network: Network, file: str, copied: Path, models: ModelSource) -> None:
        path = copied / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert str(path) in refusal(network, replace(models, folder=copied))

    def test_a_config_that_is_no_json(self, copied: Path) -> None:
        (copied / DINO / "config.json").write_text("{")
        assert f"{copied / DINO / 'config.json'}: cannot be loaded" in refusal(Network.DINO, ModelSource(copied))

    def test_another_class_of_model(self, copied: Path) -> None:
        shutil.rmtree(copied / CLIP)
        shutil.copytree(copied / DINO, copied / CLIP)
        reason = refusal(Network.CLIP, ModelSource(copied))
        assert reason.endswith("model_type: expected clip or clip_vision_model, found 'vit'")

    def test_a_missing_tensor_is_not_drawn_at_random(self, copied: Path) -> None:
        path = copied / CLIP / "model.safetensors"
        tensors = load_file(path)
        del tensors["visual_projection.weight"]
        save_file(tensors, path, {"format": "pt"})
        assert "'visual_projection.weight'" in refusal(Network.CLIP, ModelSource(copied))

    def test_a_tensor_of_another_shape(self, copied: Path) -> None:
        path = copied / DINO / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 96}))
        assert "other weights" in refusal(Network.DINO, ModelSource(copied))

    def test_alexnet_of_another_layout(self, copied: Path) -> None:
        path = copied / "alexnet.safetensors"
        tensors = load_file(path)
        save_file(tensors | {"features.0.bias": torch.zeros(96)}, path)
        assert "features.0.bias: expected shape (64,), found (96,)" in refusal(Network.LPIPS, ModelSource(copied))
        del tensors["features.3.weight"]
        save_file(tensors, path)
        assert "'features.3.weight' is missing" in refusal(Network.LPIPS, ModelSource(copied))

    @pytest.mark.parametrize(
        ("network", "file", "tensor"),
        [
            (Network.CLIP, f"{CLIP}/model.safetensors", "visual_projection.weight"),
            (Network.DINO, f"{DINO}/model.safetensors", "layernorm.bias"),
            (Network.LPIPS, "alexnet.safetensors", "features.8.bias"),
        ],
    )
    def test_weights_that_are_no_numbers(self, network: Network, file: str, tensor: str, copied: Path) -> None:
        tensors = load_file(copied / file)
        tensors[tensor][..., 0] = float("nan")
        save_file(tensors, copied / file, {"format": "pt"})
        assert f"{tensor}: expected finite numbers" in refusal(network, ModelSource(copied))


class TestPickles:
    @pytest.mark.parametrize("name", [CLIP, DINO])
    def test_transformers_weights_may_be_a_pickle_of_tensors(self, name: str, weights: Path, copied: Path) -> None:
        safe = copied / name / "model.safetensors"
        torch.save(load_file(safe), copied / name / "pytorch_model.bin")
        safe.unlink()
        network = Network.CLIP if name == CLIP else Network.DINO
        before, after = ASK[network](ModelSource(weights)), ASK[network](ModelSource(copied))
        np.testing.assert_array_equal(before, after)

    @pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch"])
    @pytest.mark.parametrize(
        ("network", "safe", "file"),
        [
            (Network.CLIP, f"{CLIP}/model.safetensors", f"{CLIP}/pytorch_model.bin"),
            (Network.DINO, f"{DINO}/model.safetensors", f"{DINO}/pytorch_model.bin"),
            (Network.LPIPS, "alexnet.safetensors", "alexnet-owt-7be5be79.pth"),
            (Network.LPIPS, "lpips_alex.pth", "lpips_alex.pth"),
        ],
    )
    def test_code_in_a_pickle_does_not_run(
        self, network: Network, safe: str, file: str, plain: bool, copied: Path, tmp_path: Path
    ) -> None:
        mark = tmp_path / "ran"
        (copied / safe).unlink()
        content = {"features.0.weight": Malicious(mark)}
        if plain:
            (copied / file).write_bytes(pickle.dumps(content, protocol=2))
        else:
            torch.save(content, copied / file)
        reason = refusal(network, ModelSource(copied))
        assert f"{copied / file}: refused" in reason
        assert not mark.exists()

    def test_a_whole_module_is_no_file_of_tensors(self, copied: Path) -> None:
        torch.save(torch.nn.Conv2d(3, 4, 1), copied / "lpips_alex.pth")
        assert "refused" in refusal(Network.LPIPS, ModelSource(copied))


class TestScripts:
    def test_a_file_that_merely_lies_there_is_not_run(self, weights: Path) -> None:
        reason = refusal(Network.INCEPTION, ModelSource(weights))
        assert f"{weights / 'inception-2015-12-05.pt'} is there, but a TorchScript file is a program" in reason
        assert "ModelSource(i3d_file=…)" in refusal(Network.I3D, ModelSource())

    def test_a_named_file_is_looked_for_in_the_folder(self, weights: Path, models: ModelSource) -> None:
        assert models.inception(FRAMES).shape == (2, 6)
        elsewhere = ModelSource(inception_file=weights / "inception-2015-12-05.pt")
        np.testing.assert_array_equal(elsewhere.inception(FRAMES), models.inception(FRAMES))

    def test_a_named_file_that_is_not_there(self, tmp_path: Path) -> None:
        models = ModelSource(tmp_path, i3d_file=Path("other.pt"))
        assert f"i3d: not found: other.pt nor {tmp_path / 'other.pt'}" in refusal(Network.I3D, models)

    def test_a_network_that_answers_otherwise(self, weights: Path) -> None:
        swapped = ModelSource(weights, inception_file=Path("i3d_torchscript.pt"))
        assert "inception: the named file does not answer (2, 3, 40, 40)" in refusal(Network.INCEPTION, swapped)


class TestDevice:
    @pytest.mark.parametrize("device", ["nowhere", "meta", "cuda:99"])
    def test_no_other_device_stands_in(self, device: str, weights: Path) -> None:
        assert f"device '{device}' cannot be used" in refusal(Network.DINO, ModelSource(weights, device=device))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_the_gpu_agrees(self, models: ModelSource, video: Callable[..., Frames]) -> None:
        frames = video(18)
        there = replace(models, device="cuda")
        assert there.backend(Network.CLIP).endswith(", cuda")
        for name in ("clip_image", "dino", "dino_vbench", "inception", "i3d"):
            cpu, gpu = (getattr(source, name)(frames) for source in (models, there))
            np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-3)
            np.testing.assert_array_equal(gpu, getattr(there, name)(frames))
        np.testing.assert_allclose(there.lpips(frames, frames[::-1]), models.lpips(frames, frames[::-1]), rtol=1e-3)


def test_a_source_travels_to_workers(models: ModelSource) -> None:
    models.clip_image(FRAMES)
    assert pickle.loads(pickle.dumps(models)) == models


def test_weightless_evaluation_does_not_import_torch() -> None:
    code = (
        "import sys, musubi_ext.evaluation.metrics, musubi_ext.evaluation.features.sets as sets; sets.ModelSource(); "
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
