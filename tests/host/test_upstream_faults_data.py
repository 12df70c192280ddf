"""What musubi-tuner gets wrong before the model: timesteps that reach it in a training, boundary, conditioning."""

from __future__ import annotations

import argparse
import logging
import statistics
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from forward_passes import Pass, watched
from host_data import make_data, train_words
from safetensors.torch import load_file
from torch import Tensor

from musubi_ext.errors import UserError
from musubi_ext.hosts.choice import parse, resolve
from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.hosts.musubi.pocket_task import PipelineVae
from musubi_ext.schedule.experts import Expert
from musubi_ext.video import Frames, read_video
from musubi_ext.wan_train_network import main

HIGH = Expert.HIGH
RANGE = {"min_timestep": 900, "max_timestep": 1000}
Files = dict[Expert, Path]


@pytest.fixture(scope="module")
def data(host: ModuleType, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "set", tiny_pipeline)


@pytest.fixture
def upstream(
    host: ModuleType, host_args: Callable[..., Namespace], data: Path, tmp_path: Path, pocket_files: Files
) -> Callable[..., list[Pass]]:
    """Train the high-noise expert by upstream's own trainer: the passes of its model."""

    def train(**flags: Any) -> list[Pass]:
        common = {"dataset_config": data / "plain.toml", "output_dir": tmp_path / "upstream", "output_name": "plain"}
        args = host_args(dit=pocket_files[HIGH], **common, **flags)
        with watched(pocket_files) as passes:
            host.WanNetworkTrainer().train(args)
        return passes

    return train


Upstream = Callable[..., list[Pass]]


def test_sigma_trains_the_other_end(
    upstream: Upstream, data: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for 900 to 1000 by its default density, upstream trains t = 1 to 100."""
    passes = upstream(timestep_sampling="sigma", discrete_flow_shift=1.0, max_train_steps=20, **RANGE)
    assert len(passes) == 20
    assert {one.expert for one in passes} == {HIGH}
    assert max(one.t for one in passes) < 0.1
    assert main(train_words(data, tiny_pipeline, tmp_path / "ours", "--timestep_sampling", "sigma")) == 2
    assert "musubi-tuner inverts it (900 to 1000 trains t = 1 to 100)" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_a_shape_is_preserved_by_leaving_the_range(
    upstream: Upstream,
    data: Path,
    tiny_pipeline: Path,
    pocket_files: Files,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a density with 6e-6 of its mass above 0.9, upstream gives up after 1000 draws and trains on
    the last of them.
    """
    flags = {"timestep_sampling": "logsnr", "preserve_distribution_shape": True, "max_train_steps": 6}
    with caplog.at_level(logging.WARNING):
        passes = upstream(**flags, **RANGE)
    assert sum(one.t < 0.9 for one in passes) >= 5
    assert "Could not sample 1 valid timesteps in 1000 loops" in caplog.text

    words = ("--experts", "high", "--timestep_sampling", "logsnr", "--preserve_distribution_shape")
    with watched(pocket_files) as passes:
        assert main(train_words(data, tiny_pipeline, tmp_path / "ours", *words, "--max_train_steps", "20")) == 0
    drawn = [one.t for one in passes if one.trained]
    assert len(drawn) == 20
    assert all(0.9 - 1e-6 <= t <= 1 for t in drawn)


def test_without_preserving_it_the_shape_is_another(
    upstream: Upstream, data: Path, tiny_pipeline: Path, pocket_files: Files, tmp_path: Path
) -> None:
    """The density is squeezed into the range. With Circle-Rotate's shift of 8, half of what the
    high-noise expert trains on lies above 0.989; half of the density's own share of its range lies above 0.944.
    """
    squeezed = [one.t for one in upstream(discrete_flow_shift=8.0, max_train_steps=60, **RANGE)]
    assert 0.98 < statistics.median(squeezed) < 0.995
    words = ("--experts", "high", "--discrete_flow_shift", "8", "--max_train_steps", "60")
    with watched(pocket_files) as passes:
        assert main(train_words(data, tiny_pipeline, tmp_path / "ours", *words)) == 0
    drawn = [one.t for one in passes if one.trained]
    assert len(drawn) == len(squeezed) == 60
    assert 0.93 < statistics.median(drawn) < 0.96


def test_a_boundary_of_0_9_is_refused(
    host: ModuleType, data: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours takes either form; one that is not the task's has to be said twice."""
    parser: argparse.ArgumentParser = host.wan_setup_parser(host.setup_parser_common())
    with pytest.raises(SystemExit):
        parser.parse_args(["--timestep_boundary", "0.9"])
    assert "invalid int value: '0.9'" in capsys.readouterr().err
    assert parser.parse_args(["--timestep_boundary", "875"]).timestep_boundary == 875

    def ranges(*words: str) -> list[tuple[float, float]]:
        plan = resolve(parse(train_words(data, tiny_pipeline, tmp_path / "ours", *words)))
        return [(job.phase.low, job.phase.high) for job in plan.jobs]

    assert ranges() == ranges("--timestep_boundary", "0.9") == ranges("--timestep_boundary", "900")
    for form in ("0.875", "875"):
        with pytest.raises(UserError, match=r"pocket-i2v hands over at 0\.9"):
            ranges("--timestep_boundary", form)
        words = ("--timestep_boundary", form, "--confirm_boundary", form)
        assert ranges(*words) == [(0.875, 1.0), (0.0, 0.875)]


def conditioning(cache: Path) -> Tensor:
    found: list[Tensor] = [tensor for key, tensor in load_file(cache).items() if key.startswith("latents_image")]
    return found[0]


def encoded(frames: Frames, pipeline: Path, *given: int) -> Tensor:
    """The VAE's latents (16, F, h, w) of a clip of which only the given frames are left."""
    video = torch.zeros(3, *frames.shape[:3])
    for index in given:
        video[:, index] = torch.from_numpy(frames[index]).permute(2, 0, 1) / 127.5 - 1
    return PipelineVae(pipeline, torch.float32).encode([video])[0]


def mask_and_latents(condition: Tensor) -> tuple[Tensor, Tensor]:
    """(4, F) of the mask, which is the same in every cell, and the latents (16, F, h, w)."""
    mask = condition[:4]
    assert torch.equal(mask, mask[:, :, :1, :1].expand_as(mask))
    return mask[:, :, 0, 0], condition[4:]


def test_upstream_gives_the_first_frame_alone(data: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Its caching knows no last frame."""
    caching = import_host_module("musubi_tuner.wan_cache_latents")
    common = import_host_module("musubi_tuner.cache_latents")
    parser: argparse.ArgumentParser = caching.wan_setup_parser(common.setup_parser_common())
    flags = {word for flag in parser._option_string_actions for word in flag.strip("-").split("_")}
    assert "i2v" in flags
    assert not flags & {"last", "end"}
    frames, file = read_video(data / "clips" / "clip_0.mp4")[0], tmp_path / "cache.safetensors"
    item = caching.ItemInfo("clip_0", "", (32, 32), (32, 32), len(frames), frames, str(file))
    caching.encode_and_save_batch(PipelineVae(tiny_pipeline, torch.float32), None, True, [item])
    mask, latents = mask_and_latents(conditioning(file))
    assert mask.tolist() == [[1, 0]] * 4
    assert torch.allclose(latents, encoded(frames, tiny_pipeline, 0), atol=1e-5)


def test_ours_trains_on_the_first_and_the_last(
    data: Path, tiny_pipeline: Path, pocket_files: Files, tmp_path: Path
) -> None:
    """mask[:, 0] = 1, mask[-1, -1] = 1 and the VAE's latents of [first, zeros…, last] reach the model
    of the real trainer.
    """
    toml = (data / "orbit.toml").read_text().replace(str(data / "cache"), str(tmp_path / "both"))
    (tmp_path / "both.toml").write_text(toml + 'condition = "first_last"\n')
    words = train_words(data, tiny_pipeline, tmp_path / "ours", "--max_train_steps", "10")
    words[words.index("--dataset_config") + 1] = str(tmp_path / "both.toml")
    with watched(pocket_files) as passes:
        assert main(words) == 0
    given = [one.condition for one in passes if one.trained and one.condition is not None]
    assert len(given) == 20
    assert all(mask_and_latents(each)[0].tolist() == [[1, 0], [1, 0], [1, 0], [1, 1]] for each in given)
    clips = [read_video(path)[0] for path in sorted((data / "clips").glob("*.mp4"))]
    wanted = [encoded(frames, tiny_pipeline, 0, -1) for frames in clips]
    for each in given:
        latents = mask_and_latents(each)[1]
        assert [torch.allclose(latents, clip, atol=1e-5) for clip in wanted].count(True) == 1
