"""Batches from caches: shapes, buckets, order, hold-out, fingerprint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from musubi_ext.errors import UserError
from musubi_ext.orbits.cache.entries import Variant, entry_metadata
from musubi_ext.orbits.cache.files import LatentFile, latent_path, text_path, write_latents, write_text
from musubi_ext.orbits.config import DatasetConfig, OrbitOptions, VideoDataset
from musubi_ext.orbits.dataset import OrbitDataset, holdout_sources, read_tensors

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines under load
SIZES = {"a": (32, 32), "b": (32, 32), "c": (32, 32), "d": (64, 16), "e": (32, 32), "f": (32, 32)}


def cached_folder(folder: Path, *, batch_size: int = 2, num_repeats: int = 1, holdout: float = 0.0) -> DatasetConfig:
    """Six clips (files of a letter: training never decodes) and caches whose numbers name the clip."""
    dataset = VideoDataset(
        folder / "cache",
        folder,
        resolution=(32, 32),
        enable_bucket=True,
        caption_extension=".txt",
        target_frames=(5,),
        batch_size=batch_size,
        num_repeats=num_repeats,
    )
    config = DatasetConfig(folder / "data.toml", (dataset,), OrbitOptions(holdout=holdout))
    folder.mkdir(exist_ok=True)
    for index, (stem, size) in enumerate(SIZES.items()):
        (folder / f"{stem}.mp4").write_text(stem)
        (folder / f"{stem}.txt").write_text(f"clip {stem}")
        cache_clip(config, stem, index, size)
    return config


def cache_clip(config: DatasetConfig, stem: str, value: float, size: tuple[int, int] = (32, 32)) -> Path:
    """The finished cache of a clip: latents full of `value`, texts of 3 + `value` tokens; the latents' path."""
    (dataset,) = config.datasets
    source = hashlib.sha256((config.path.parent / f"{stem}.mp4").read_bytes()).hexdigest()
    caption = (config.path.parent / f"{stem}.txt").read_text()
    metadata = entry_metadata(config.orbit, dataset, Variant(stem, caption, False), source, "v") | {"windows": "1"}
    file = LatentFile(latent_path(dataset.cache_directory, stem, (0, 5), size), stem, (0, 5), size)
    grid = (2, size[1] // 8, size[0] // 8)
    write_latents(file, torch.full((16, *grid), float(value)), torch.full((20, *grid), 100.0 + value), metadata)
    text = torch.full((3 + int(value), 8), float(value))
    write_text(text_path(dataset.cache_directory, stem), text, caption, {"text_encoder": "t"})
    return file.path


def epoch(dataset: OrbitDataset) -> list[list[str]]:
    return [[path.name[0] for path in dataset.batch_sources(index)] for index in range(len(dataset))]


def test_a_batch_is_what_the_trainer_reads(tmp_path: Path) -> None:
    dataset = OrbitDataset(cached_folder(tmp_path / "d", batch_size=4))
    for index, names in enumerate(epoch(dataset)):
        batch = dataset[index]
        assert batch.keys() == {"latents", "latents_image", "t5", "timesteps"}
        assert batch["timesteps"] is None
        size = SIZES[names[0]]
        assert batch["latents"].shape == (len(names), 16, 2, size[1] // 8, size[0] // 8)
        assert batch["latents_image"].shape == (len(names), 20, 2, size[1] // 8, size[0] // 8)
        clips = ["abcdef".index(name) for name in names]
        assert batch["latents"][:, 0, 0, 0, 0].tolist() == clips
        assert batch["latents_image"][:, 0, 0, 0, 0].tolist() == [100 + clip for clip in clips]
        assert [(len(text), text[0, 0].item()) for text in batch["t5"]] == [(3 + clip, clip) for clip in clips]


def test_every_clip_once_an_epoch_in_batches_of_one_shape(tmp_path: Path) -> None:
    dataset = OrbitDataset(cached_folder(tmp_path / "d"))
    batches = epoch(dataset)
    assert sorted(name for batch in batches for name in batch) == list("abcdef")
    assert sorted(map(len, batches)) == [1, 1, 2, 2]  # five squares make 2 + 2 + 1, the wide one a batch of its own
    assert ["d"] in batches
    assert dataset.num_train_items == 6


def test_order_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    config = cached_folder(tmp_path / "d", batch_size=1, num_repeats=3)
    first, second = OrbitDataset(config, seed=7), OrbitDataset(config, seed=7)
    for number in range(3):
        first.set_epoch(number)
    second.set_epoch(2)
    assert epoch(first) == epoch(second)
    second.set_epoch(1)
    assert epoch(first) != epoch(second)
    assert epoch(OrbitDataset(config, seed=9)) == epoch(first)  # musubi-tuner's own rule: seed + epoch
    assert first.num_train_items == len(first) == 18


def test_hold_out_is_apart_by_content_and_never_shuffled(tmp_path: Path) -> None:
    config = cached_folder(tmp_path / "d", holdout=0.34)
    train, holdout = OrbitDataset(config), OrbitDataset(config, split="holdout")
    held = [name for batch in epoch(holdout) for name in batch]
    assert len(held) == 2
    assert set(held).isdisjoint(name for batch in epoch(train) for name in batch)
    order = epoch(holdout)
    holdout.set_epoch(5)
    assert epoch(holdout) == order
    assert len(OrbitDataset(cached_folder(tmp_path / "d"), split="holdout")) == 0
    with pytest.raises(ValueError, match="split"):
        OrbitDataset(config, split="test")


@PATIENT
@given(
    st.sets(st.text("0123456789abcdef", min_size=8, max_size=8), max_size=30),
    st.floats(0, 0.5),
    st.text("0af", max_size=8),
)
def test_one_more_clip_moves_at_most_one_other(sources: set[str], share: float, extra: str) -> None:
    held = holdout_sources([*sources, *sources], share)
    assert held <= sources
    assert len(held) < max(len(sources), 1)
    assert (len(held) >= 1) == (share > 0 and len(sources) > 1)
    after = holdout_sources([*sources, extra], share)
    assert len((held - after) & sources) <= 1
    assert len((after - held) & sources) <= 1


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    here, there = cached_folder(tmp_path / "here"), cached_folder(tmp_path / "there")
    first = OrbitDataset(here).fingerprint()
    assert len(first) == 64
    assert OrbitDataset(there).fingerprint() == first
    (tmp_path / "there" / "a.txt").write_text("another")
    cache_clip(there, "a", 0)
    assert OrbitDataset(there).fingerprint() != first
    assert OrbitDataset(cached_folder(tmp_path / "here", num_repeats=2)).fingerprint() != first
    assert OrbitDataset(cached_folder(tmp_path / "here", holdout=0.3)).fingerprint() != first


def test_files_are_read_once_when_they_fit_in_memory(tmp_path: Path) -> None:
    config = cached_folder(tmp_path / "d", batch_size=6)
    held, read = OrbitDataset(config), OrbitDataset(config, in_memory=0)
    for index in range(len(held)):
        torch.testing.assert_close(held[index]["latents"], read[index]["latents"])
    for path in config.datasets[0].cache_directory.iterdir():
        path.unlink()
    assert held[0]["latents"].shape[0] >= 1
    with pytest.raises(FileNotFoundError):
        read[0]


def test_stale_caches_of_other_clips_are_not_trained_on(tmp_path: Path) -> None:
    config = cached_folder(tmp_path / "d")
    (tmp_path / "d" / "a.mp4").unlink()
    assert OrbitDataset(config).num_train_items == 5


def test_missing_caches_are_named(tmp_path: Path) -> None:
    config = cached_folder(tmp_path / "d")
    cache = config.datasets[0].cache_directory
    text_path(cache, "b").unlink()
    latents = latent_path(cache, "c", (0, 5), (32, 32))
    save_file({"latents_2x4x4_float32": torch.zeros(16, 2, 4, 4)}, latents, metadata={"architecture": "wan"})
    with pytest.raises(UserError) as raised:
        OrbitDataset(config)
    assert [message.split(": ")[0] for message in raised.value.problems] == [str(cache), str(latents)]
    assert "1 clip is without its caption's cache: " + str(tmp_path / "d" / "b.mp4") in raised.value.problems[0]
    for path in cache.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="cache the data set first"):
        OrbitDataset(config)


def test_caches_that_upstream_wrote_are_read(tmp_path: Path) -> None:
    """Its files name neither source nor entry, and hold bfloat16."""
    config = cached_folder(tmp_path / "d")
    latents = latent_path(config.datasets[0].cache_directory, "a", (0, 5), (32, 32))
    shapes = {"latents": 16, "latents_image": 20}
    tensors = {
        f"{key}_2x4x4_bfloat16": torch.zeros(width, 2, 4, 4, dtype=torch.bfloat16) for key, width in shapes.items()
    }
    save_file(tensors, latents, metadata={"architecture": "wan"})
    assert read_tensors(latents).keys() == {"latents", "latents_image"}
    dataset = OrbitDataset(config)
    assert dataset.num_train_items == 6
    assert len(dataset.fingerprint()) == 64


def test_workers_that_outlive_an_epoch_follow_its_order(tmp_path: Path) -> None:
    dataset = OrbitDataset(cached_folder(tmp_path / "d"), in_memory=0)
    # A worker is forked; the parent must have started no threads of its own before (one torch thread in tests).
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    orders = []
    for number in (1, 2, 3):
        dataset.set_epoch(number)
        seen = ["".join("abcdef"[int(clip)] for clip in batch["latents"][:, 0, 0, 0, 0]) for batch in loader]
        assert seen == ["".join(names) for names in epoch(dataset)]
        orders.append(tuple(seen))
    assert len(set(orders)) > 1
