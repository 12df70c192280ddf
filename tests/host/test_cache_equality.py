"""Our caches against upstream's `wan_cache_latents --i2v`: the same clips, the same VAE file, the same numbers."""

from __future__ import annotations

import functools
import json
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.files import read_metadata
from musubi_ext.orbits.cache.models import ModelFiles
from musubi_ext.orbits.cache.status import cache_status
from musubi_ext.orbits.cache.wan_text import load_text_encoder
from musubi_ext.orbits.cache.wan_vae import load_vae
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import DatasetConfig, load_dataset_config
from musubi_ext.orbits.dataset import OrbitDataset
from musubi_ext.pocket.text import build_text_encoder, build_tokenizer
from musubi_ext.storage import sha256
from musubi_ext.video import write_mp4

TOML = """
[general]
resolution = [64, 48]
caption_extension = ".txt"
enable_bucket = true
batch_size = 2
[[datasets]]
video_directory = "{clips}"
cache_directory = "{cache}"
target_frames = [9, 17]
frame_extraction = "chunk"
"""
LAYOUT = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}


@pytest.fixture(scope="module")
def upstream(host: ModuleType) -> ModuleType:
    return import_host_module("musubi_tuner.wan_cache_latents")


@pytest.fixture(scope="module")
def vae_file(host: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random VAE of upstream's own class and layout, eight channels wide, in a .pth."""
    vae = import_host_module("musubi_tuner.wan.modules.vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = vae.WanVAE_(dim=8, z_dim=16, **LAYOUT).state_dict()
        weights = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in weights.items()}
    path = tmp_path_factory.mktemp("vae") / "Wan2.1_VAE.pth"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("set") / "clips", np.random.default_rng(0)
    folder.mkdir()
    for index, (width, height, count) in enumerate([(96, 64, 17), (64, 96, 20), (64, 48, 33)]):
        still = random.integers(0, 256, (1, height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        write_mp4(folder / f"clip_{index}.mp4", np.concatenate([np.roll(still, 2 * i, 2) for i in range(count)]), 16)
        (folder / f"clip_{index}.txt").write_text(f"camera circles right to left, car number {index}")
    return folder


@pytest.fixture
def small(host: ModuleType) -> Iterator[None]:
    vae = import_host_module("musubi_tuner.wan.modules.vae")
    with patch.object(vae, "_video_vae", functools.partial(vae._video_vae, dim=8)):
        yield


def config_of(folder: Path, clips: Path, cache: str) -> tuple[Path, DatasetConfig]:
    path = folder / f"{cache}.toml"
    path.write_text(TOML.format(clips=clips, cache=folder / cache))
    return path, load_dataset_config(path)


def cache_upstream(upstream: ModuleType, toml: Path, vae_file: Path, dtype: str) -> None:
    words = ["--dataset_config", str(toml), "--vae", str(vae_file), "--vae_dtype", dtype, "--i2v", "--device", "cpu"]
    with patch.object(sys, "argv", ["wan_cache_latents", *words, "--num_workers", "1"]):
        upstream.main()


def encoders_of(vae_file: Path, dtype: torch.dtype = torch.float32) -> Encoders:
    return Encoders(load_vae(vae_file, dtype=dtype), build_text_encoder(), build_tokenizer())


def tensors(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: load_file(path) for path in sorted(folder.glob("*_wan.safetensors"))}


def worst(ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]) -> float:
    assert ours.keys() == theirs.keys()
    assert [list(file) for file in ours.values()] == [list(file) for file in theirs.values()]
    pairs = [(ours[name][key], theirs[name][key]) for name in ours for key in ours[name]]
    return max(float((mine.float() - their.float()).abs().max()) for mine, their in pairs)


@pytest.mark.usefixtures("small")
def test_names_keys_and_numbers_are_upstreams(
    upstream: ModuleType, vae_file: Path, clips: Path, tmp_path: Path
) -> None:
    their_toml, their_config = config_of(tmp_path, clips, "theirs")
    cache_upstream(upstream, their_toml, vae_file, "float32")
    _, our_config = config_of(tmp_path, clips, "ours")
    cache_dataset(our_config, encoders_of(vae_file), progress=False)
    ours, theirs = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    assert len(ours) == 9  # 17 → 9, 17; 20 → 9, 9, 17; 33 → 9, 9, 9, 17
    assert worst(ours, theirs) <= 1e-5
    for name in ours:
        with safe_open(tmp_path / "ours" / name, "pt") as mine, safe_open(tmp_path / "theirs" / name, "pt") as their:
            assert their.metadata().items() <= mine.metadata().items()
    for path in (tmp_path / "ours").glob("*_te.safetensors"):  # upstream's texts need its own command
        (tmp_path / "theirs" / path.name).write_bytes(path.read_bytes())
    batches = [OrbitDataset(config, seed=1) for config in (our_config, their_config)]
    for mine, their in zip(*batches, strict=True):
        torch.testing.assert_close(mine["latents"], their["latents"], atol=1e-5, rtol=0)
        torch.testing.assert_close(mine["latents_image"], their["latents_image"], atol=1e-5, rtol=0)


def upstreams_group(upstream: ModuleType, toml: Path) -> Any:
    """Upstream's own data sets of a TOML, ready for training."""
    utils = import_host_module("musubi_tuner.dataset.config_utils")
    generator = utils.BlueprintGenerator(utils.ConfigSanitizer())
    arguments = upstream.wan_setup_parser(upstream.cache_latents.setup_parser_common())
    args = arguments.parse_args(["--dataset_config", str(toml)])
    blueprint = generator.generate(utils.load_user_config(str(toml)), args, architecture="wan")
    epoch = multiprocessing.Value("i", 0)
    return utils.generate_dataset_group_by_blueprint(
        blueprint.dataset_group, training=True, num_timestep_buckets=None, shared_epoch=epoch
    )


@pytest.mark.usefixtures("small")
def test_upstreams_loader_reads_ours(upstream: ModuleType, vae_file: Path, clips: Path, tmp_path: Path) -> None:
    toml, config = config_of(tmp_path, clips, "ours")
    cache_dataset(config, encoders_of(vae_file), progress=False)
    group = upstreams_group(upstream, toml)
    assert group.num_train_items == 9
    assert {tuple(batch["latents_image"].shape[1:3]) for batch in group} == {(20, 3), (20, 5)}


@pytest.mark.usefixtures("small")
def test_upstreams_loader_reads_clips_of_one_name_each_with_its_caption(
    upstream: ModuleType, vae_file: Path, clips: Path, tmp_path: Path
) -> None:
    """Upstream's own caching writes one over the other: of two clips it trains one, with the caption that came last."""
    captions = {"a/cat.mp4": "a grey cat", "b/cat.mp4": "a red cat, and longer"}
    for source, name in zip(sorted(clips.glob("*.mp4")), captions, strict=False):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(source.read_bytes())
    lines = [json.dumps({"video_path": str(tmp_path / name), "caption": caption}) for name, caption in captions.items()]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    table = TOML.format(clips="", cache=tmp_path / "cache").replace("[9, 17]", "[9]").replace("chunk", "head")
    toml = tmp_path / "data.toml"
    toml.write_text(table.replace('video_directory = ""', f'video_jsonl_file = "{tmp_path}/list.jsonl"'))
    config, encoders = load_dataset_config(toml), encoders_of(vae_file)
    cache_dataset(config, encoders, progress=False)

    group = upstreams_group(upstream, toml)
    assert group.num_train_items == 2
    found = {}
    for bucket in group.datasets[0].batch_manager.buckets.values():
        for item in bucket:
            found[Path(item.latent_cache_path).name] = Path(item.text_encoder_output_cache_path).name
    ours = {item.latents.name: item.text.name for item in OrbitDataset(config).items}
    assert found == ours
    for clip in config.datasets[0].clips():
        latents = next(tmp_path.glob(f"cache/{clip.stem}_*_wan.safetensors"))
        (text,) = load_file(tmp_path / "cache" / found[latents.name]).values()
        torch.testing.assert_close(text, encoders.encode_caption(captions[f"{clip.path.parent.name}/cat.mp4"]))
        assert read_metadata(latents)["source_sha256"] == sha256(clip.path)
    shapes = [(tuple(batch["latents"].shape[1:]), [len(text) for text in batch["t5"]]) for batch in group]
    assert sorted(count for _, counts in shapes for count in counts) == sorted(
        len(encoders.encode_caption(caption)) for caption in captions.values()
    )


@pytest.mark.usefixtures("small")
def test_what_upstream_cached_is_trained_while_the_settings_are_those(
    upstream: ModuleType, vae_file: Path, clips: Path, tmp_path: Path
) -> None:
    toml, config = config_of(tmp_path, clips, "theirs")
    cache_upstream(upstream, toml, vae_file, "float32")
    _, ours = config_of(tmp_path, clips, "ours")
    cache_dataset(ours, encoders_of(vae_file), progress=False)
    for path in (tmp_path / "ours").glob("*_te.safetensors"):  # upstream's texts need its own command
        metadata = {"architecture": "wan", "caption1": read_metadata(path)["caption1"]}
        save_file(load_file(path), tmp_path / "theirs" / path.name, metadata=metadata)
    assert OrbitDataset(config).num_train_items == 9
    status = cache_status(config)
    assert (status.complete, status.stale) == (True, [])
    toml.write_text(toml.read_text().replace("[9, 17]", "[5]"))
    with pytest.raises(UserError, match="3 clips are cached for other settings: target_frames: "):
        OrbitDataset(load_dataset_config(toml))


@pytest.mark.usefixtures("small")
def test_in_bfloat16_the_difference_is_its_rounding(
    upstream: ModuleType, vae_file: Path, clips: Path, tmp_path: Path
) -> None:
    """No two implementations agree in bf16: ours is as near to fp32 as upstream's is."""
    for folder, dtype in (("exact", "float32"), ("theirs", "bfloat16")):
        cache_upstream(upstream, config_of(tmp_path, clips, folder)[0], vae_file, dtype)
    cache_dataset(config_of(tmp_path, clips, "ours")[1], encoders_of(vae_file, torch.bfloat16), progress=False)
    exact, theirs, ours = (
        [tensor.float() for file in tensors(tmp_path / name).values() for tensor in file.values()]
        for name in ("exact", "theirs", "ours")
    )
    error = [
        float(torch.cat([(one - true).flatten() for one, true in zip(found, exact, strict=True)]).abs().mean())
        for found in (ours, theirs)
    ]
    print(f"bf16: mean error ours {error[0]:.2e}, upstream's {error[1]:.2e}")
    assert error[0] <= 1.1 * error[1]


def test_the_text_encoder_is_upstreams(host: ModuleType, tmp_path: Path) -> None:
    t5 = import_host_module("musubi_tuner.wan.modules.t5")
    sizes = {"vocab": 99, "dim": 32, "dim_attn": 32, "dim_ffn": 48, "num_heads": 4, "num_layers": 2, "num_buckets": 32}
    theirs = t5.T5Encoder(**sizes, shared_pos=False).eval()
    save_file(theirs.state_dict(), tmp_path / "t5.safetensors")
    ours = load_text_encoder(tmp_path / "t5.safetensors", dtype=torch.float32).eval()
    tokens, mask = torch.randint(0, 99, (1, 20)), torch.ones(1, 20, dtype=torch.long)
    mask[:, 13:] = 0
    with torch.no_grad():
        mine, their = ours(tokens, mask).last_hidden_state, theirs(tokens, mask)
    torch.testing.assert_close(mine[:, :13], their[:, :13], atol=2e-6, rtol=1e-5)


def test_the_command_takes_upstreams_files(
    vae_file: Path, clips: Path, tmp_path: Path, tiny_pipeline: Path, host: ModuleType
) -> None:
    t5 = import_host_module("musubi_tuner.wan.modules.t5")
    vocabulary = len(build_tokenizer().get_vocab())
    sizes = {"dim": 32, "dim_attn": 32, "dim_ffn": 48, "num_heads": 4, "num_layers": 1, "num_buckets": 32}
    torch.save(t5.T5Encoder(vocab=vocabulary, **sizes, shared_pos=False).state_dict(), tmp_path / "t5.pth")
    models = ModelFiles(vae=vae_file, t5=tmp_path / "t5.pth", tokenizer=tiny_pipeline / "tokenizer")
    _, config = config_of(tmp_path, clips, "ours")
    assert cache_dataset(config, models, progress=False).written == 3
    again = ModelFiles(vae=vae_file, t5=tmp_path / "t5.pth", tokenizer=tiny_pipeline / "tokenizer")
    assert cache_dataset(config, again, progress=False).skipped == 3
    assert "encoders" not in vars(again)  # recognised without loading a model
