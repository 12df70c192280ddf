"""The extension inside the real trainer: switched off it changes nothing, switched on it makes a pair, exactly."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from host_data import make_data, train_words
from torch import Tensor

from musubi_ext.adapters.files import read_lora
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.hosts.choice import parse, resolve
from musubi_ext.hosts.extension import OrbitExtension
from musubi_ext.hosts.musubi.trainer import trainer_class
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.schedule.experts import Expert
from musubi_ext.schedule.plan import Phase
from musubi_ext.wan_train_network import main

HostArgs = Callable[..., Namespace]
OURS: dict[str, Any] = {  # flags of ours that upstream's parser does not know, at rest
    "resume": None,
    "save_state_every_n_steps": None,
    "validate_every_n_steps": 0,
    "early_stop_patience": None,
    "band_emphasis": None,
    "no_bands": False,
    "preview_every_n_epochs": None,
}


@pytest.fixture(scope="module")
def data(host: ModuleType, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "set", tiny_pipeline)


@pytest.fixture
def upstream(host: ModuleType, host_args: HostArgs, data: Path, tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """Train by upstream's own class; returns the adapter."""

    def train(**flags: Any) -> dict[str, Tensor]:
        args = host_args(
            dataset_config=data / "plain.toml", output_dir=tmp_path / "upstream", output_name="plain", **flags
        )
        host.WanNetworkTrainer().train(args)
        return read_lora(tmp_path / "upstream" / "plain.safetensors").tensors

    return train


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert any(value.any() for key, value in theirs.items() if "lora_up" in key)


def test_switched_off_it_is_upstream_s_own_trainer(
    host: ModuleType,
    upstream: Callable[..., dict[str, Tensor]],
    data: Path,
    tiny_pipeline: Path,
    pocket_files: Any,
    tmp_path: Path,
) -> None:
    theirs = upstream(max_train_steps=20)
    words = train_words(data, tiny_pipeline, tmp_path / "off", "--extension", "off", "--max_train_steps", "20")
    own = {
        "--dataset_config": str(data / "plain.toml"),
        "--learning_rate": "1e-3",
        "--dit": str(pocket_files[Expert.LOW]),
    }
    for flag, value in own.items():
        words[words.index(flag) + 1] = value
    host.WAN_CONFIGS.pop("pocket-i2v")  # as in a process of its own
    assert main([*words, "--network_alpha", "2"]) == 0
    assert_same(read_lora(tmp_path / "off" / "orbit.safetensors").tensors, theirs)


@pytest.mark.parametrize(
    "flags", [{}, {"gradient_accumulation_steps": 4, "lr_scheduler": "cosine", "max_grad_norm": 0.01}]
)
def test_our_loop_with_upstream_s_data_and_draws_is_upstream_s_to_the_last_bit(
    upstream: Callable[..., dict[str, Tensor]], host_args: HostArgs, data: Path, tmp_path: Path, flags: dict[str, Any]
) -> None:
    theirs = upstream(max_train_steps=20, **flags)

    class Upstream(trainer_class("pocket-i2v")):  # type: ignore[misc]
        def get_noisy_model_input_and_timesteps(self, *args: Any) -> Any:
            return super(OrbitExtension, self).get_noisy_model_input_and_timesteps(*args)

    args = host_args(
        dataset_config=data / "plain.toml",
        output_dir=tmp_path / "ours",
        output_name="ours",
        max_train_steps=20,
        **flags,
    )
    vars(args).update(OURS)
    phase = Phase(Expert.LOW, args.dit, 0.0, 1.0, 0.9, "ours", 20, None)
    Upstream(phase, load_dataset_config(data / "plain.toml")).train(args)
    assert_same(read_lora(tmp_path / "ours" / "ours.safetensors").tensors, theirs)


def test_a_toml_without_our_table_gives_upstream_s_batches(
    host: ModuleType, host_args: HostArgs, data: Path, tmp_path: Path
) -> None:
    args = host_args(dataset_config=data / "plain.toml", output_dir=tmp_path, output_name="x")
    phase = Phase(Expert.LOW, args.dit, 0.0, 0.9, 0.9, "x", 1, None)
    ours = trainer_class("pocket-i2v")(phase, load_dataset_config(data / "plain.toml"))
    for trainer in (ours, host.WanNetworkTrainer()):
        trainer.handle_model_specific_args(args)
    drawn = []
    for trainer in (ours, host.WanNetworkTrainer()):
        trainer.handle_model_specific_args(args)
        trainer._init_session(args)
        group, collator, epoch = trainer._build_dataset(args)
        loader = torch.utils.data.DataLoader(group, batch_size=1, shuffle=True, collate_fn=collator)
        batches = []
        for number in (1, 2):
            epoch.value = number
            batches += list(loader)
        drawn.append(batches)
    assert len(drawn[0]) == 12
    for ours_, theirs in zip(*drawn, strict=True):
        assert ours_.keys() == theirs.keys()
        for key in ("latents", "latents_image"):
            assert torch.equal(ours_[key], theirs[key])
        assert all(torch.equal(a, b) for a, b in zip(ours_["t5"], theirs["t5"], strict=True))


def test_one_command_makes_a_pair(data: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    words = train_words(
        data, tiny_pipeline, tmp_path / "out", "--max_train_steps", "6", "--validate_every_n_steps", "3"
    )
    assert main(words) == 0
    pair = AdapterPair.load(tmp_path / "out")
    manifest = pair.manifest
    assert [manifest["experts"][name]["timestep_range"] for name in ("high", "low")] == [[0.9, 1.0], [0.0, 0.9]]
    assert manifest["training"]["host"].startswith("musubi-tuner 0.3.")
    for expert in Expert:
        metadata = read_lora(pair.files()[expert.value]).metadata
        low, high = manifest["experts"][expert.value]["timestep_range"]
        assert metadata["ss_expert"] == expert.value
        assert (metadata["ss_min_timestep"], metadata["ss_max_timestep"]) == (str(1000 * low), str(1000 * high))
        assert metadata["ss_timestep_boundary"] == "0.9"
        assert metadata["modelspec.architecture"] == "wan2.2/lora"
        assert metadata["modelspec.timestep_range"] == f"{round(1000 * low)},{round(1000 * high)}"
        assert metadata["ss_pair_id"] == manifest["training"]["pair_id"]
        assert metadata["ss_dataset_fingerprint"] == manifest["dataset_fingerprint"]
        assert metadata["ss_musubi_tuner"].split()[0] in manifest["training"]["host"]
        assert [step for step, _ in json.loads(metadata["ss_validation"])] == [0, 3, 6]
        assert len(manifest["training"]["validation"][expert.value]) == 3
    assert main(words) == 0  # finished: nothing is trained again


def test_the_hashes_are_those_of_the_tensors(host: ModuleType, data: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    from musubi_tuner.utils.model_utils import precalculate_safetensors_hashes

    assert main(train_words(data, tiny_pipeline, tmp_path / "out", "--max_train_steps", "2")) == 0
    for path in AdapterPair.load(tmp_path / "out").files().values():
        if path.suffix == ".safetensors":
            lora = read_lora(path)
            model_hash, legacy_hash = precalculate_safetensors_hashes(lora.tensors, dict(lora.metadata))
            assert lora.metadata["sshs_model_hash"] == model_hash
            assert lora.metadata["sshs_legacy_hash"] == legacy_hash


def test_a_plan_names_every_phase(
    data: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train_words(data, tiny_pipeline, tmp_path / "out", "--max_train_epochs", "3", "--dry-run")
    assert main(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(phase["expert"], phase["timesteps"], phase["steps"]) for phase in plan["phases"]] == [
        ("high", [900.0, 1000.0], 15),
        ("low", [0.0, 900.0], 15),
    ]
    assert not (tmp_path / "out").exists()
    assert resolve(parse(words)).host == "musubi"


def test_the_order_of_the_experts_is_the_one_asked_for(data: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    words = train_words(data, tiny_pipeline, tmp_path / "out", "--max_train_steps", "1", "--experts", "low,high")
    assert [job.expert for job in resolve(parse(words)).jobs] == [Expert.LOW, Expert.HIGH]


@pytest.mark.parametrize(
    "words",
    [
        ("--lr_scheduler", "sideways"),
        ("--optimizer_type", "torch.optim.Nothing"),
        ("--network_module", "networks.none_such"),
        ("--optimizer_args", "weight_decay"),
    ],
)
def test_what_upstream_refuses_is_a_sentence(
    data: Path, tiny_pipeline: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(train_words(data, tiny_pipeline, tmp_path / "out", "--max_train_steps", "1", *words)) == 2
    said = capfd.readouterr().err
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in said


def test_upstream_s_own_picture_shows_our_draws(
    data: Path, tiny_pipeline: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = train_words(data, tiny_pipeline, tmp_path / "out", "--show_timesteps", "console", "--experts", "high")
    assert main(words) == 0
    shown = capfd.readouterr().out.partition("Sampled timesteps")[2].partition("Sampled loss weighting")[0]
    rows = [line.split(":") for line in shown.splitlines() if line[:4].strip().isdecimal()]
    assert {int(name.split("-")[0]) for name, bar in rows if "#" in bar} == {900, 925, 950, 975}
    assert not (tmp_path / "out").exists()


def test_bucketed_timesteps_cover_the_expert_s_range_evenly(host_args: HostArgs, data: Path) -> None:
    args = host_args(num_timestep_buckets=10, timestep_sampling="uniform")
    vars(args).update(OURS)
    phase = Phase(Expert.HIGH, args.dit, 0.9, 1.0, 0.9, "x", 1, None)
    trainer = trainer_class("pocket-i2v")(phase, load_dataset_config(data / "orbit.toml"))
    trainer._begin(args)
    latents = torch.zeros(4, 16, 2, 4, 4)
    drawn = [
        trainer.get_noisy_model_input_and_timesteps(args, latents, latents, None, None, latents.device, torch.float32)[
            1
        ]
        for _ in range(5)
    ]
    cells = ((torch.cat(drawn) - 901) // 10).long().bincount(minlength=10)
    assert cells.tolist() == [2] * 10


def test_a_clip_without_cache_is_not_left_out_in_silence(
    host: ModuleType, data: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Upstream trains on what it finds; so a clip that was never cached goes missing without a word."""
    from musubi_ext.errors import Problems
    from musubi_ext.hosts.musubi.checks import check_caches

    text = (data / "orbit.toml").read_text() + "mirror = true\n"
    (tmp_path / "mirrored.toml").write_text(text)
    problems = Problems()
    check_caches(load_dataset_config(tmp_path / "mirrored.toml"), problems)
    assert "6 clips have no cache: clip_0-mirrored" in problems.found[0]


def test_without_our_table_the_clips_need_not_be_there(data: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    text = (data / "plain.toml").read_text().replace(str(data / "clips"), str(tmp_path))
    (tmp_path / "plain.toml").write_text(text)
    words = train_words(data, tiny_pipeline, tmp_path / "out", "--max_train_steps", "1", "--experts", "low")
    words[words.index("--dataset_config") + 1] = str(tmp_path / "plain.toml")
    plan = resolve(parse(words))
    assert len(plan.jobs[0].settings["data"]) == 64
    assert not plan.data.orbit_given
