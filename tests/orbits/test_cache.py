"""Caches: upstream's names and tensors, finished entries skipped, bad clips reported and left out."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from musubi_ext.errors import UserError
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.summary import CacheSummary
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.clips import load_frames
from musubi_ext.orbits.conditioning import clip_condition
from musubi_ext.orbits.config import DatasetConfig, OrbitOptions, VideoDataset
from musubi_ext.orbits.dataset import OrbitDataset
from musubi_ext.pocket.config import random_pipeline
from musubi_ext.video import write_mp4

CAPTION = "eye level, full shot, camera circles right to left, a red car on grass, static subject"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def encoders(folder: Path) -> Encoders:
    return Encoders.load(folder)


def moving_square(seed: int, count: int = 17, width: int = 32, height: int = 32) -> np.ndarray:
    """Frames (F, H, W, 3): a bright square crossing a ground of one random colour."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = np.random.default_rng(seed).integers(0, 120, 3, dtype=np.uint8)
    for index, frame in enumerate(frames):
        frame[8:16, index : index + 8] = (230, 40 * seed % 256, 60)
    return frames


def add_clip(folder: Path, name: str, seed: int, caption: str = CAPTION, **shape: int) -> Path:
    folder.mkdir(exist_ok=True)
    write_mp4(folder / f"{name}.mp4", moving_square(seed, **shape), 16)
    (folder / f"{name}.txt").write_text(caption)
    return folder / f"{name}.mp4"


def config_of(folder: Path, orbit: OrbitOptions | None = None, **options: Any) -> DatasetConfig:
    options = {"resolution": (32, 32), "caption_extension": ".txt", "target_frames": (17,), **options}
    dataset = VideoDataset(folder.parent / "cache", folder / "." if not folder.exists() else folder, **options)
    return DatasetConfig(folder.parent / "data.toml", (dataset,), orbit or OrbitOptions())


def run(config: DatasetConfig, encoders: Encoders) -> CacheSummary:
    return cache_dataset(config, encoders, progress=False)


def files(config: DatasetConfig) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(config.datasets[0].cache_directory.iterdir())}


def test_names_tensors_and_metadata_are_upstreams(tmp_path: Path, encoders: Encoders) -> None:
    clip = add_clip(tmp_path / "clips", "my_cat", 1, width=54, height=96)
    config = config_of(clip.parent, resolution=(64, 64), enable_bucket=True)
    run(config, encoders)
    assert list(files(config)) == ["my_cat_00000-017_0048x0080_wan.safetensors", "my_cat_wan_te.safetensors"]
    cache = config.datasets[0].cache_directory
    latents = load_file(cache / "my_cat_00000-017_0048x0080_wan.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in latents.items()} == {
        "latents_5x10x6_float32": (16, 5, 10, 6),
        "latents_image_5x10x6_float32": (20, 5, 10, 6),
    }
    with safe_open(cache / "my_cat_00000-017_0048x0080_wan.safetensors", "pt") as file:
        metadata = file.metadata()
    upstream = {"architecture": "wan", "width": "48", "height": "80", "format_version": "1.0.1", "frame_count": "17"}
    assert upstream.items() <= metadata.items()
    text = load_file(cache / "my_cat_wan_te.safetensors")
    assert list(text) == ["varlen_t5_float32"]
    with safe_open(cache / "my_cat_wan_te.safetensors", "pt") as file:
        assert {
            "architecture": "wan",
            "caption1": CAPTION,
            "format_version": "1.0.1",
        }.items() <= file.metadata().items()


def test_finished_entries_are_skipped_and_changes_redo_only_what_they_touch(tmp_path: Path, encoders: Encoders) -> None:
    clips = add_clip(tmp_path / "clips", "a", 1).parent
    add_clip(clips, "b", 2)
    config = config_of(clips)
    assert run(config, encoders).written == 2
    before = files(config)
    again = run(config, encoders)
    assert (again.written, again.skipped, files(config)) == (0, 2, before)

    (clips / "a.txt").write_text("camera circles left to right")
    assert run(config, encoders).written == 0
    changed = {name for name, stamp in files(config).items() if stamp != before[name]}
    assert changed == {"a_wan_te.safetensors"}

    before = files(config)
    add_clip(clips, "b", 5)
    assert run(config, encoders).written == 1
    changed = {name for name, stamp in files(config).items() if stamp != before[name]}
    assert changed == {"b_00000-017_0032x0032_wan.safetensors"}

    assert run(config_of(clips, OrbitOptions("first_last")), encoders).written == 2
    (config.datasets[0].cache_directory / "a_00000-017_0032x0032_wan.safetensors").write_bytes(b"damaged")
    assert run(config_of(clips, OrbitOptions("first_last")), encoders).written == 1


def test_one_bad_clip_is_reported_and_does_not_stop_the_rest(tmp_path: Path, encoders: Encoders) -> None:
    clips = add_clip(tmp_path / "clips", "good", 1).parent
    add_clip(clips, "short", 2, count=9)
    add_clip(clips, "torn", 3)
    (clips / "torn.mp4").write_bytes((clips / "torn.mp4").read_bytes()[:500])
    config, out = config_of(clips), StringIO()
    summary = cache_dataset(config, encoders, console=Console(file=out, width=300))
    assert summary.written == 1
    assert [path.name for path, _ in summary.bad] == ["short.mp4", "torn.mp4"]
    assert "expected at least 17 frames, found 9" in out.getvalue()
    assert "torn.mp4: expected a readable" in out.getvalue()
    assert {name.split("_")[0] for name in files(config)} == {"good"}
    assert len(OrbitDataset(config)) == 1


def test_all_bad_is_an_error_that_leaves_nothing(tmp_path: Path, encoders: Encoders) -> None:
    clips = add_clip(tmp_path / "clips", "short", 2, count=9).parent
    config = config_of(clips)
    with pytest.raises(UserError, match="no clip could be cached") as raised:
        run(config, encoders)
    assert "short.mp4" in raised.value.problems[1]
    assert not config.datasets[0].cache_directory.exists()


def test_stale_files_of_removed_clips_go_and_similar_names_stay_apart(tmp_path: Path, encoders: Encoders) -> None:
    clips = add_clip(tmp_path / "clips", "cat", 1).parent
    add_clip(clips, "cat_b", 1)  # the same content, and a stem that begins with the other
    config = config_of(clips)
    assert run(config, encoders).written == 2
    (clips / "cat.mp4").unlink()
    assert run(config, encoders).removed == 2
    assert list(files(config)) == ["cat_b_00000-017_0032x0032_wan.safetensors", "cat_b_wan_te.safetensors"]


def test_mirrored_clips_get_their_own_entries(tmp_path: Path, encoders: Encoders) -> None:
    clip = add_clip(tmp_path / "clips", "a", 1)
    config = config_of(clip.parent, OrbitOptions(mirror=True))
    run(config, encoders)
    assert "a-mirrored_00000-017_0032x0032_wan.safetensors" in files(config)
    cache = config.datasets[0].cache_directory
    with safe_open(cache / "a-mirrored_wan_te.safetensors", "pt") as file:
        assert "left to right" in file.metadata()["caption1"]
    stored = load_file(cache / "a-mirrored_00000-017_0032x0032_wan.safetensors")["latents_5x4x4_float32"]
    torch.testing.assert_close(stored, encoders.encode_clip(load_frames(clip, (32, 32))[:, :, ::-1].copy()))
    assert run(config, encoders).skipped == 1


def test_mixed_conditioning_is_fixed_by_content(tmp_path: Path, encoders: Encoders) -> None:
    clips = tmp_path / "clips"
    for seed in range(6):
        add_clip(clips, f"clip{seed}", seed)
    config = config_of(clips, OrbitOptions("mixed"))
    run(config, encoders)
    kinds = set()
    for path in config.datasets[0].cache_directory.glob("*_wan.safetensors"):
        with safe_open(path, "pt") as file:
            source, kind = file.metadata()["source_sha256"], file.metadata()["condition"]
            mask = file.get_tensor("latents_image_5x4x4_float32")[:4]
        assert kind == clip_condition("mixed", source)
        assert mask[3, -1].any() == (kind == "first_last")
        kinds.add(kind)
    assert kinds == {"first", "first_last"}


def test_windows_of_one_clip_each_have_a_file(tmp_path: Path, encoders: Encoders) -> None:
    clips = add_clip(tmp_path / "clips", "long", 1, count=24).parent
    config = config_of(clips, target_frames=(5, 9), frame_extraction="chunk")
    run(config, encoders)
    starts = [name.split("_")[1] for name in files(config) if "wan_te" not in name]
    assert starts == ["00000-005", "00000-009", "00005-005", "00009-009", "00010-005", "00015-005"]
    os.remove(config.datasets[0].cache_directory / "long_00009-009_0032x0032_wan.safetensors")
    assert run(config, encoders).written == 1
    assert len(files(config)) == 7


def test_a_new_decoder_leaves_the_caches_valid(tmp_path: Path, folder: Path) -> None:
    config = config_of(add_clip(tmp_path / "clips", "a", 1).parent)
    first, second, third = (Encoders.load(folder) for _ in range(3))
    run(config, first)
    next(second.vae.decoder.parameters()).data += 1
    assert run(config, second).skipped == 1
    next(third.vae.encoder.parameters()).data += 0.01
    assert run(config, third).written == 1


def test_long_captions_are_named(tmp_path: Path, encoders: Encoders) -> None:
    clips = add_clip(tmp_path / "clips", "a", 1, caption="car " * 99).parent
    summary = run(config_of(clips), encoders)
    assert summary.truncated == [(clips / "a.mp4", 100)]
    assert "100 tokens" in summary.report()


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, folder: Path) -> None:
    broken = Encoders.load(folder)
    next(broken.vae.encoder.parameters()).data[:] = float("nan")
    with pytest.raises(UserError, match="NaN or infinity"):
        run(config_of(add_clip(tmp_path / "clips", "a", 1).parent), broken)


def test_a_folder_that_is_no_pipeline_is_named(tmp_path: Path) -> None:
    config = config_of(add_clip(tmp_path / "clips", "a", 1).parent)
    with pytest.raises(UserError) as raised:
        cache_dataset(config, tmp_path / "nothing", progress=False)
    assert len(raised.value.problems) == 3


@pytest.fixture
def real_clips() -> Path:
    fallback = Path(__file__).parents[2] / "../shared/data/circle_rotate"
    folder = Path(os.environ.get("MUSUBI_EXT_SAMPLE_DATA", fallback)) / "train"
    if not folder.is_dir():
        pytest.skip(f"needs the sample clips of Circle-Rotate: none at {folder} (set MUSUBI_EXT_SAMPLE_DATA)")
    return folder


def test_two_real_clips(tmp_path: Path, real_clips: Path, folder: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("cat", "demo2"):
        for suffix in (".mp4", ".txt"):
            (clips / f"{name}{suffix}").write_bytes((real_clips / f"{name}{suffix}").read_bytes())
    config = config_of(clips, OrbitOptions(holdout=0.5), resolution=(64, 64), enable_bucket=True, batch_size=2)
    summary = cache_dataset(config, folder, progress=False)
    assert (summary.written, summary.bad) == (2, [])
    train, holdout = (OrbitDataset(config, split=split) for split in ("train", "holdout"))
    assert len(train) == len(holdout) == 1
    assert train[0]["latents"].shape == (1, 16, 5, 10, 6)  # 180×320 goes to the 48×80 bucket
    assert train[0]["latents_image"].shape == (1, 20, 5, 10, 6)
    assert train.batch_sources(0) != holdout.batch_sources(0)
