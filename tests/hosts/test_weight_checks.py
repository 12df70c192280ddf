"""Weights, caches and flags that cannot work are found from headers, each with one line."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from musubi_ext.errors import Problems
from musubi_ext.hosts.musubi.checks import DitFile, check_caches, check_device, check_weights
from musubi_ext.orbits.cache.files import LatentFile, latent_path, write_latents, write_text
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.pocket.upstream import export_experts
from musubi_ext.schedule.experts import Expert

Config = dict[str, int]


def flags(**changes: object) -> Namespace:
    values = {"task": "pocket-i2v", "mixed_precision": "no", "fp8_base": False, "fp8_scaled": False}
    return Namespace(**{**values, "blocks_to_swap": None, "optimizer_type": "adamw", **changes})


@pytest.fixture(scope="module")
def weights(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """A whole expert of random weights in Wan's own layout."""
    tensors: dict[str, Tensor] = load_file(
        export_experts(tiny_pipeline, tmp_path_factory.mktemp("experts"))[Expert.LOW]
    )
    return tensors


@pytest.fixture(scope="module")
def task(weights: Mapping[str, Tensor]) -> Config:
    """What WAN_CONFIGS would say of it."""
    return {
        "dim": weights["patch_embedding.weight"].shape[0],
        "in_dim": 36,
        "ffn_dim": weights["blocks.0.ffn.0.weight"].shape[0],
        "freq_dim": weights["time_embedding.0.weight"].shape[1],
        "num_layers": sum(key.endswith("ffn.0.weight") for key in weights),
    }


@pytest.fixture
def check(
    weights: Mapping[str, Tensor], task: Config, tmp_path: Path
) -> Callable[..., tuple[DitFile | None, tuple[str, ...]]]:
    """Save tensors (the expert's by default) as one file and check it: what was found, and the problems."""

    def run(
        tensors: Mapping[str, Tensor] | None = None, config: Config | None = None, **changes: object
    ) -> tuple[DitFile | None, tuple[str, ...]]:
        path, problems = tmp_path / "expert.safetensors", Problems()
        save_file(dict(weights if tensors is None else tensors), path)
        found = check_weights(path, Expert.HIGH, config or task, flags(**changes), problems)
        assert all(str(path) in problem or problem.startswith("--blocks") for problem in problems.found)
        return found, tuple(problems.found)

    return run


Check = Callable[..., tuple[DitFile | None, tuple[str, ...]]]


def problems_of(action: Callable[[Problems], Any]) -> list[str]:
    problems = Problems()
    action(problems)
    return problems.found


# weights


def test_an_expert_that_fits(check: Check, task: Config) -> None:
    found, problems = check(blocks_to_swap=task["num_layers"] - 1)
    assert problems == ()
    assert found is not None
    assert found.file_type == "fp32"
    assert (found.shape.dim, found.shape.num_layers, found.shape.in_dim) == (task["dim"], task["num_layers"], 36)


def test_a_prefix_is_taken_off(check: Check, weights: Mapping[str, Tensor]) -> None:
    assert check({f"model.diffusion_model.{key}": tensor for key, tensor in weights.items()})[1] == ()


@pytest.mark.parametrize("name", ["dim", "ffn_dim", "num_layers", "in_dim", "freq_dim"])
def test_each_size_is_compared_with_the_task(check: Check, task: Config, name: str) -> None:
    (problem,) = check(config={**task, name: task[name] + 1})[1]
    assert f"{name} {task[name]}" in problem
    assert f"expected {task[name] + 1} (--task pocket-i2v is another model)" in problem


def test_every_wrong_size_is_listed(check: Check, task: Config) -> None:
    assert len(check(config={**task, "dim": 1, "ffn_dim": 1}, mixed_precision=None)[1]) == 2


def test_an_expert_of_the_other_task(check: Check, weights: Mapping[str, Tensor]) -> None:
    (problem,) = check(
        {**weights, "patch_embedding.weight": torch.zeros(weights["patch_embedding.bias"].shape[0], 16, 1, 2, 2)}
    )[1]
    assert "in_dim 16: text-to-video, expected 36" in problem


@pytest.mark.parametrize(
    ("kind", "given", "fine"),
    [
        ("fp32", "fp16", True),
        ("fp32", "bf16", True),
        ("fp16", "fp16", True),
        ("fp16", "no", True),
        ("fp16", "bf16", False),
        ("fp16", None, False),  # upstream's assertion fails
        ("bf16", "bf16", True),
        ("bf16", "no", True),
        ("bf16", "fp16", False),
        ("fp8", "fp16", True),
        ("fp8", "bf16", True),
    ],
)
def test_precision_fits_the_weights(
    check: Check, weights: Mapping[str, Tensor], kind: str, given: str | None, fine: bool
) -> None:
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
    found, problems = check({key: tensor.to(types[kind]) for key, tensor in weights.items()}, mixed_precision=given)
    assert found is not None
    assert found.file_type == kind
    assert (problems == ()) == fine
    assert fine or f"use --mixed_precision {kind}" in problems[0]


def test_fp8_is_not_scaled_twice(check: Check, weights: Mapping[str, Tensor]) -> None:
    small = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in weights.items()}
    assert "fp8 already" in check(small, fp8_scaled=True)[1][0]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("condition_embedder.time_proj.weight", "diffusers' layout"),
        ("lora_unet_blocks_0_ffn_0.lora_down.weight", "an adapter"),
        ("diffusion_model.blocks.0.ffn.0.lora_A.weight", "an adapter"),
        ("blocks.0.ffn.0.scale_weight", "scaled fp8"),
        ("img_emb.proj.0.weight", "Wan2.1"),
    ],
)
def test_other_kinds_of_files_are_told_apart(check: Check, weights: Mapping[str, Tensor], key: str, kind: str) -> None:
    found, (problem,) = check({**weights, key: torch.zeros(1)})
    assert found is None
    assert kind in problem


def test_keys_that_strict_loading_would_refuse(check: Check, weights: Mapping[str, Tensor]) -> None:
    less = {key: tensor for key, tensor in weights.items() if not key.startswith("blocks.0.self_attn.q")}
    found, problems = check({**less, "extra.weight": torch.zeros(1)})
    assert found is None
    assert "missing keys blocks.0.self_attn.q.bias, blocks.0.self_attn.q.weight" in problems[0]
    assert "unknown keys extra.weight" in problems[1]


def test_more_swapped_blocks_than_there_are(check: Check, task: Config) -> None:
    most = task["num_layers"] - 1
    (problem,) = check(blocks_to_swap=most + 1)[1]
    assert f"expected at most {most}" in problem


@pytest.mark.parametrize("name", ["expert.pth", "expert.pt", "expert.bin", "expert"])
def test_only_safetensors_are_read(task: Config, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    (problem,) = problems_of(lambda problems: check_weights(tmp_path / name, Expert.LOW, task, flags(), problems))
    assert problem.startswith(f"--dit {tmp_path / name}")
    assert ".safetensors" in problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "damaged"),
        (b"PK\x03\x04 this is another kind of file", "its header would be"),
        ((1 << 20).to_bytes(8, "little"), "damaged"),
    ],
)
def test_files_that_cannot_be_read(task: Config, tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "expert.safetensors"
    if content is not None:
        path.write_bytes(content)
    (problem,) = problems_of(lambda problems: check_weights(path, Expert.LOW, task, flags(), problems))
    assert words in problem


def test_a_truncated_file(weights: Mapping[str, Tensor], task: Config, tmp_path: Path) -> None:
    path = tmp_path / "expert.safetensors"
    save_file(dict(weights), path)
    path.write_bytes(path.read_bytes()[:-100])
    (problem,) = problems_of(lambda problems: check_weights(path, Expert.LOW, task, flags(), problems))
    assert "damaged" in problem


def parts(weights: Mapping[str, Tensor], folder: Path) -> list[Path]:
    names = sorted(weights)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    paths = [folder / f"wan-0000{index + 1}-of-00002.safetensors" for index in range(2)]
    for path, half in zip(paths, halves, strict=True):
        save_file({name: weights[name] for name in half}, path)
    return paths


def test_a_model_in_parts(weights: Mapping[str, Tensor], task: Config, tmp_path: Path) -> None:
    first, second = parts(weights, tmp_path)
    assert problems_of(lambda problems: check_weights(first, Expert.LOW, task, flags(), problems)) == []
    (problem,) = problems_of(lambda problems: check_weights(second, Expert.LOW, task, flags(), problems))
    assert "name the part that holds it" in problem
    second.unlink()
    (problem,) = problems_of(lambda problems: check_weights(first, Expert.LOW, task, flags(), problems))
    assert f"no such file: {second.name}" in problem


# device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_what_needs_a_cuda_device() -> None:
    args = flags(optimizer_type="AdamW8bit", mixed_precision="fp16", fp8_base=True, fp8_scaled=True, blocks_to_swap=30)
    found = problems_of(lambda problems: check_device(args, problems))
    assert [problem.split(":")[0] for problem in found] == [
        "--optimizer_type AdamW8bit",
        "--mixed_precision fp16",
        "--fp8_base",
        "--fp8_scaled",
        "--blocks_to_swap",
    ]
    assert all("CUDA" in problem for problem in found)


def test_what_does_not_need_one() -> None:
    args = flags(optimizer_type="", mixed_precision="bf16", blocks_to_swap=0)  # upstream's default is AdamW
    assert problems_of(lambda problems: check_device(args, problems)) == []


# caches

DATA = """
[[datasets]]
video_directory = "{folder}"
caption_extension = ".txt"
resolution = [32, 48]
target_frames = [5]
"""


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., list[str]]:
    """Two clips, one cached by `cache(stem, …)`; `check(orbit)` lists the problems."""
    for stem in ("a", "b"):
        (tmp_path / f"{stem}.mp4").write_bytes(b"clip")
        (tmp_path / f"{stem}.txt").write_text("a car")

    def run(orbit: str = "[orbit]\n", **options: bool) -> list[str]:
        (tmp_path / "data.toml").write_text(DATA.format(folder=tmp_path) + orbit)
        config = load_dataset_config(tmp_path / "data.toml")
        found = problems_of(lambda problems: check_caches(config, problems, **options))
        return [problem for problem in found if "have no cache" not in problem]  # the other clip

    return run


def test_clips_without_cache_are_named(tmp_path: Path, data: Callable[..., list[str]]) -> None:
    cache(tmp_path, "a")
    data()
    config = load_dataset_config(tmp_path / "data.toml")
    (problem,) = problems_of(lambda problems: check_caches(config, problems))
    assert problem.startswith(f"{tmp_path}: 1 clips have no cache: b ")


def cache(
    folder: Path, stem: str, *, size: tuple[int, int] = (32, 48), latent: tuple[int, int] = (6, 4), text: bool = True,
    **metadata: str,
) -> Path:  # fmt: skip
    """Write a cache as ours are; without metadata it says no more than musubi-tuner's."""
    file = LatentFile(latent_path(folder, stem, (0, 5), size), stem, (0, 5), size)
    write_latents(file, torch.zeros(16, 2, *latent), torch.zeros(20, 2, *latent), metadata)
    if text:
        write_text(folder / f"{stem}_wan_te.safetensors", torch.zeros(3, 8), "a car", {})
    return file.path


Data = Callable[..., list[str]]


def test_caches_that_fit(data: Data, tmp_path: Path) -> None:
    cache(tmp_path, "a", vae="1", condition="first", source_sha256="0")
    cache(tmp_path, "b", vae="1", condition="first", source_sha256="1")
    assert data() == []


def test_musubi_tuner_s_own_name_no_vae_and_are_no_error(data: Data, tmp_path: Path) -> None:
    cache(tmp_path, "a")
    cache(tmp_path, "b", vae="1")
    assert data("") == []
    config, problems = load_dataset_config(tmp_path / "data.toml"), Problems()
    assert check_caches(config, problems).describe() == "2 caches: 1 of VAE 1, 1 of an unknown VAE"


def test_nothing_cached(data: Data) -> None:
    (problem,) = data()
    assert "found none (cache the data set first)" in problem


def test_two_vaes(data: Data, tmp_path: Path) -> None:
    cache(tmp_path, "a", vae="11111111aaaa")
    cache(tmp_path, "b", vae="22222222bbbb")
    (problem,) = data()
    assert "one VAE" in problem
    assert "1 of VAE 11111111, 1 of VAE 22222222" in problem


def test_another_resolution_and_sizes_that_are_not_the_name_s(data: Data, tmp_path: Path) -> None:
    cache(tmp_path, "a", size=(48, 32), latent=(4, 6))
    cache(tmp_path, "b", latent=(4, 6))
    found = data()
    assert "1 caches are not of resolution [32, 48]: a_00000-005_0048x0032_wan.safetensors" in found[0]
    assert "hold latents of another size than their name says: b_" in found[1]
    assert "hold image conditioning of another size" in found[2]


def test_buckets_of_the_resolution_fit(data: Data, tmp_path: Path) -> None:
    cache(tmp_path, "a", size=(48, 32), latent=(4, 6))
    assert len(data("")) == 1
    assert data("enable_bucket = true\n") == []
    cache(tmp_path, "b", size=(16, 16), latent=(2, 2))
    assert len(data("enable_bucket = true\n")) == 1
    assert data("enable_bucket = true\nbucket_no_upscale = true\n") == []


def test_latents_alone_are_for_text_to_video(data: Data, tmp_path: Path) -> None:
    path = cache(tmp_path, "a")
    tensors = {key: value for key, value in load_file(path).items() if "image" not in key}
    save_file(tensors, path)
    (problem,) = data()
    assert "hold no image conditioning" in problem
    assert "--i2v" in problem
    assert data(i2v=False) == []


@pytest.mark.parametrize(
    ("option", "condition", "fine"),
    [
        ("first", "first", True),
        ("first", "first_last", False),
        ("first_last", "first_last", True),
        ("first_last", "first", False),
        ("first_last", None, False),  # musubi-tuner's give the first frame alone
        ("mixed", "first_last", True),  # of a clip with an odd hash
        ("mixed", "first", False),
        ("mixed", None, False),
        ("first", None, True),
    ],
)
def test_the_condition_is_what_orbit_asks(
    data: Data, tmp_path: Path, option: str, condition: str | None, fine: bool
) -> None:
    if condition is None:
        cache(tmp_path, "a")
    else:
        cache(tmp_path, "a", condition=condition, source_sha256="f1")
    found = data(f'[orbit]\ncondition = "{option}"\n')
    assert (found == []) == fine
    assert fine or "made for condition" in found[0]


def test_a_damaged_cache_and_a_missing_caption(data: Data, tmp_path: Path) -> None:
    cache(tmp_path, "a").write_bytes(b"short")
    cache(tmp_path, "b", text=False)
    found = data()
    assert "1 caches are damaged: a_" in found[0]
    assert "have no caption's cache beside them: b_" in found[1]


def test_a_fault_of_many_files_is_one_line(data: Data, tmp_path: Path) -> None:
    for index in range(9):
        cache(tmp_path, f"c{index}", size=(16, 16), latent=(2, 2))
    assert data() == [f"{tmp_path / 'data.toml'}: expected cached clips, found none (cache the data set first)"]
    (problem,) = data("")  # without [orbit] all files of the folder are trained on, as musubi-tuner does
    assert problem.startswith(f"{tmp_path}: 9 caches are not of resolution")
    assert problem.count("_wan.safetensors") == 3
