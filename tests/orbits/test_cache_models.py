"""Which models cache: the two commands' flags, the tokenizer's commit, and sentences for files of other models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cache_data import data, run, stamps
from safetensors.torch import load_file, save_file

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.orbits.cache.command import main as module_main
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.files import read_metadata
from musubi_ext.orbits.cache.index import CacheIndex
from musubi_ext.orbits.cache.models import ModelFiles
from musubi_ext.orbits.cache.wan_text import find_tokenizer, load_text_encoder, load_tokenizer
from musubi_ext.orbits.cache.wan_vae import load_vae
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache whose google/umt5-xxl is the tiny pipeline's tokenizer; its folder of the repository."""
    repository = tmp_path / "hub" / "models--google--umt5-xxl"
    add_revision(repository, COMMIT, tiny_pipeline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


def add_revision(repository: Path, commit: str, pipeline: Path) -> None:
    shutil.copytree(pipeline / "tokenizer", repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def test_the_tokenizer_of_the_hub_is_taken_at_the_commit_its_cache_names(
    hub: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    files = find_tokenizer(None)
    assert (files.folder, files.revision) == (hub / "snapshots" / COMMIT, COMMIT)
    tokenizer = load_tokenizer(files)
    assert tokenizer.get_vocab() == Encoders.load(tiny_pipeline).tokenizer.get_vocab()
    parts = Encoders.load(tiny_pipeline)
    encoders = Encoders(parts.vae, parts.text_encoder, tokenizer, files.metadata)
    toml = data(tmp_path, count=1)
    cache_dataset(load_dataset_config(toml), encoders, progress=False)
    assert read_metadata(tmp_path / "cache" / "clip_0_wan_te.safetensors")["tokenizer"] == f"google/umt5-xxl@{COMMIT}"
    assert encoders.text_id == parts.text_id  # an id is of what the files hold, wherever they lie


def test_another_commit_of_the_tokenizer_is_another_model(hub: Path, tmp_path: Path, tiny_pipeline: Path) -> None:
    """The index of model ids knows nothing of it: it must not answer for the one before."""
    models = ModelFiles(vae=tmp_path / "vae", t5=tmp_path / "t5")
    before = models._fingerprint
    add_revision(hub, COMMIT[::-1], tiny_pipeline)
    assert ModelFiles(vae=tmp_path / "vae", t5=tmp_path / "t5")._fingerprint != before


def test_a_tokenizer_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="google/umt5-xxl is not in the Hugging Face cache"):
        find_tokenizer(None)
    for name in ("vae.pth", "t5.pth"):
        (tmp_path / name).write_bytes(b"weights")
    toml = data(tmp_path, count=1)
    flags = ["--vae", str(tmp_path / "vae.pth"), "--t5", str(tmp_path / "t5.pth"), "--dry-run"]
    assert main(["data", "cache", "--dataset_config", str(toml), *flags]) == 2
    assert module_main([str(toml), *flags, "--tokenizer", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "is not in the Hugging Face cache" in said[0]
    assert f"--tokenizer {tmp_path}: expected a tokenizer's folder" in said[1]


def test_the_other_vae_and_wrong_files_are_named_with_what_they_are(tmp_path: Path, tiny_pipeline: Path) -> None:
    ti2v = {"encoder.conv1.weight": torch.zeros(8, 12, 3, 3, 3), "conv1.weight": torch.zeros(96, 96, 1, 1, 1)}
    torch.save(ti2v, tmp_path / "Wan2.2_VAE.pth")
    with pytest.raises(UserError, match=r"Wan2\.2_VAE\.pth: .* 16 latent channels, .* Wan2\.2-TI2V-5B with 48"):
        load_vae(tmp_path / "Wan2.2_VAE.pth")
    save_file({"blocks.0.ffn.0.weight": torch.zeros(2)}, tmp_path / "dit.safetensors")
    for load in (load_vae, load_text_encoder):
        with pytest.raises(UserError, match=r"dit\.safetensors: expected .* found .* but blocks\.0\.ffn\.0\.weight"):
            load(tmp_path / "dit.safetensors")
    half = {"encoder.conv1.weight": torch.zeros(8, 3, 3, 3, 3), "conv1.weight": torch.zeros(32, 32, 1, 1, 1)}
    torch.save(half, tmp_path / "half.pth", _use_new_zipfile_serialization=False)  # cannot be mapped, and is read
    with pytest.raises(UserError, match=r"half\.pth: .* tensors differ, first .*: expected \[.*\], found none"):
        load_vae(tmp_path / "half.pth")


def test_a_folder_with_another_vae_is_refused_before_it_is_loaded(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = tmp_path / "pipeline"
    shutil.copytree(tiny_pipeline, pipeline)
    config = json.loads((pipeline / "vae" / "config.json").read_text())
    (pipeline / "vae" / "config.json").write_text(json.dumps({**config, "z_dim": 48, "is_residual": True}))
    toml = data(tmp_path, count=1)
    words = ["data", "cache", "--dataset_config", str(toml), "--base", str(pipeline)]
    assert main([*words, "--dry-run"]) == main(words) == 2
    assert "found one of Wan2.2-TI2V-5B with 48" in capsys.readouterr().err
    (pipeline / "vae" / "config.json").write_text("[]")
    assert main(words) == 2
    shutil.copy(tiny_pipeline / "vae" / "config.json", pipeline / "vae")
    (weights,) = (pipeline / "text_encoder").glob("*.safetensors")
    weights.unlink()
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert "expected a VAE's configuration in JSON" in said[0]
    assert f"{pipeline}: expected a diffusers Wan pipeline, found: " in said[1]


def test_both_commands_are_one(tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = data(tmp_path, count=2)
    flags = ["--base", str(tiny_pipeline), "--cpu"]
    assert main(["data", "cache", "--dataset_config", str(toml), *flags, "--dry-run"]) == 0
    assert module_main([str(toml), *flags, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said[: len(said) // 2] == said[len(said) // 2 :]
    assert f"{tmp_path}/clips: 2 clips → {tmp_path}/cache, 32x32, 5 frames" in said
    assert main(["data", "cache", "--dataset_config", str(toml), *flags]) == 0
    assert "2 encoded" in capsys.readouterr().err
    before = stamps(toml)
    run(toml, tiny_pipeline)
    assert stamps(toml) == before
    assert main(["data", "cache", "--dataset_config", str(toml), *flags, "--vae_dtype", "bf16"]) == 0
    latents = load_file(tmp_path / "cache" / "clip_0_00000-005_0032x0032_wan.safetensors")
    assert {tensor.dtype for tensor in latents.values()} == {torch.bfloat16}


def test_flags_that_belong_to_two_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = data(tmp_path, count=1)
    assert main(["data", "cache", "--dataset_config", str(toml), "--vae", "none.pth", "--base", "pocket-i2v"]) == 2
    assert main(["data", "cache", "--dataset_config", str(toml), "--vae", "none.pth"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "expected either --base or --vae with --t5, found both" in said[0]
    assert [line.split(":")[1] for line in said[2:]] == [" --vae none.pth", " --t5"]
    assert main(["data", "cache", "--dataset_config", str(toml), "--dry-run"]) == 0  # the pocket's models


def test_ids_of_older_indices_are_read(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    index = CacheIndex(tmp_path / "cache")
    models = ModelFiles(base=tmp_path)
    index.put("model", models._fingerprint, (0, 0), ["vae", "text", 512])
    assert models.ids(index).text_tokens == 512
