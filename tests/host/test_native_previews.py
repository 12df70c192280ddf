"""Previews of both experts through musubi-tuner's own transformer, network, scheduler and VAE, all of them small."""

from __future__ import annotations

import functools
import random
import weakref
from argparse import Namespace
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.hosts.musubi.previews import Live, OnDisk, render_pair
from musubi_ext.schedule.experts import Expert
from musubi_ext.video import read_comment, read_video

BOUNDARY = 0.9
HIGH, LOW = Expert.HIGH, Expert.LOW
SIZES = {"dim": 64, "ffn_dim": 128, "freq_dim": 64, "num_heads": 2, "num_layers": 2, "text_len": 8}
PROMPT = {"width": 32, "height": 16, "frame_count": 5, "seed": 3, "sample_steps": 6, "discrete_flow_shift": 8.0}


@dataclass(frozen=True)
class Call:
    """One forward pass."""

    model: int
    t: float
    text: float
    condition: torch.Tensor | None


@dataclass
class Setting:
    """A small Wan2.2 in musubi-tuner: its trainer, both experts' files, adapters, VAE."""

    trainer: Any
    args: Namespace
    accelerator: Any
    dit: dict[Expert, str]
    adapter: dict[Expert, Path]
    vae: Any
    picture: Path
    folder: Path
    calls: list[Call] = field(default_factory=list)

    def on_disk(self, *without: Expert) -> dict[Expert, Live | OnDisk]:
        return {
            expert: OnDisk(self.dit[expert], None if expert in without else self.adapter[expert]) for expert in Expert
        }

    def sample(self, **changes: Any) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(7)
        text, negative = torch.randn(3, 4096, generator=generator), torch.randn(2, 4096, generator=generator)
        given = {"t5_embeds": text, "negative_t5_embeds": negative, "negative_prompt": "grey", "cfg_scale": 1.0}
        return {**PROMPT, "prompt": "red car", "image_path": str(self.picture), **given, **changes}

    def render(self, experts: dict[Expert, Live | OnDisk], *samples: dict[str, Any], stem: str = "p") -> list[bytes]:
        """The videos' bytes; `calls` are those of this rendering."""
        self.calls.clear()
        chosen = list(samples) or [self.sample()]
        paths = render_pair(
            self.trainer, self.args, self.accelerator, experts, chosen, self.vae, self.folder, stem, BOUNDARY
        )
        assert all(path.with_suffix(".png").is_file() for path in paths)
        return [path.read_bytes() for path in paths]

    def train(self, **changes: Any) -> tuple[Any, Any]:
        """The low expert as upstream prepares it for training, its adapter read in: transformer, network."""
        args = Namespace(**{**vars(self.args), "network_weights": str(self.adapter[LOW]), **changes})
        transformer = self.trainer._load_dit_and_swap(args, self.accelerator, torch.float32)
        network = self.trainer._build_network(args, self.accelerator, transformer, None, torch.float32)
        return transformer, network


@pytest.fixture
def setting(host: ModuleType, host_args: Callable[..., Namespace], tmp_path: Path) -> Setting:
    config = deepcopy(host.WAN_CONFIGS["i2v-A14B"])
    config.update(SIZES)
    host.WAN_CONFIGS["small-i2v"] = config  # taken out again by the fixture process_left_alone
    dit = {expert: write_expert(tmp_path / f"{expert.value}.safetensors", config, expert) for expert in Expert}
    adapter = {expert: write_adapter(tmp_path / f"adapter_{expert.value}.safetensors", expert) for expert in Expert}
    args = host_args(task="small-i2v", dit=dit[LOW], network_alpha=4, network_dim=4)
    calls: list[Call] = []
    trainer = watched(host.WanNetworkTrainer, calls)()
    trainer.handle_model_specific_args(args)
    accelerator = trainer._prepare_accelerator_and_dtypes(args)[0]
    picture = tmp_path / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(picture)
    folder = tmp_path / "previews"
    return Setting(trainer, args, accelerator, dit, adapter, small_vae(tmp_path), picture, folder, calls)


def watched(trainer: type, calls: list[Call]) -> type:
    """The trainer, which notes every forward pass, and every loading after seeing that the last model is gone."""

    class Watched(trainer):  # type: ignore[misc,valid-type]
        loaded: list[tuple[str, weakref.ref[Any]]]

        def __init__(self) -> None:
            super().__init__()
            self.loaded = []

        def load_transformer(self, accelerator: Any, args: Namespace, dit_path: str, *rest: Any) -> Any:
            assert [path for path, model in self.loaded if model() is not None] == []
            model = super().load_transformer(accelerator, args, dit_path, *rest)
            self.loaded.append((dit_path, weakref.ref(model)))
            return model

        def call_dit(self, args: Any, accelerator: Any, transformer: Any, latents: Any, batch: Any, *rest: Any) -> Any:
            assert not torch.is_grad_enabled()
            assert not any(module.training for module in transformer.modules())
            condition = batch.get("latents_image")
            first = float(batch["t5"][0].flatten()[0])
            calls.append(Call(id(transformer), float(rest[2]), first, None if condition is None else condition[0]))
            return super().call_dit(args, accelerator, transformer, latents, batch, *rest)

    return Watched


def write_expert(path: Path, config: Any, expert: Expert) -> str:
    """Random weights; the modulations and the head too, which upstream initialises to nothing."""
    generator = torch.Generator().manual_seed(1 if expert is HIGH else 2)
    names = ("dim", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "text_len")
    sizes = {name: config[name] for name in names}
    model = import_host_module("musubi_tuner.wan.modules.model").WanModel("i2v", "2.2", attn_mode="torch", **sizes)
    weights = {
        name: torch.randn(tensor.shape, generator=generator) * 0.08 for name, tensor in model.state_dict().items()
    }
    save_file(weights, path)
    return str(path)


def write_adapter(path: Path, expert: Expert, rank: int = 4) -> Path:
    generator = torch.Generator().manual_seed(11 if expert is HIGH else 12)
    tensors = {}
    linears = {f"{kind}_attn_{part}": (64, 64) for kind in ("self", "cross") for part in "qkvo"}
    for block in range(SIZES["num_layers"]):
        for name, (rows, columns) in {**linears, "ffn_0": (128, 64), "ffn_2": (64, 128)}.items():
            key = f"lora_unet_blocks_{block}_{name}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(rank, columns, generator=generator) * 0.3
            tensors[f"{key}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) * 0.3
            tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path)
    return path


def small_vae(folder: Path) -> Any:
    """Upstream's WanVAE of 8 base channels, random."""
    module = import_host_module("musubi_tuner.wan.modules.vae")
    cfg = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_file(module.WanVAE_(dim=8, z_dim=16, **cfg).state_dict(), folder / "vae.safetensors")
    with patch.object(module, "_video_vae", functools.partial(module._video_vae, dim=8)):
        return module.WanVAE(vae_path=str(folder / "vae.safetensors"), dtype=torch.float32, device="cpu")


def test_both_experts_take_their_own_side_of_the_boundary(setting: Setting) -> None:
    setting.render(setting.on_disk(), setting.sample(), setting.sample(sample_steps=4))
    assert [Path(path).stem for path, _ in setting.trainer.loaded] == ["high", "low"]
    models = list(dict.fromkeys(call.model for call in setting.calls))
    assert len(models) == 2
    seen = {model: [call.t for call in setting.calls if call.model == model] for model in models}
    # sigma = 8t/(1 + 7t) over 6 steps, then over 4; FIELD: of four steps the first two are the high expert's
    assert seen[models[0]] == [999, 975, 941, 999, 959]
    assert seen[models[1]] == [888, 799, 615, 888, 727]
    assert all(model() is None for _, model in setting.trainer.loaded)


def test_without_a_share_an_expert_is_not_loaded(setting: Setting) -> None:
    """One step at shift 8 is t = 999: the low expert has nothing to do, and its file is not even read."""
    experts = setting.on_disk() | {LOW: OnDisk("absent.safetensors", None)}
    setting.render(experts, setting.sample(sample_steps=1))
    assert [Path(path).stem for path, _ in setting.trainer.loaded] == ["high"]


def test_each_adapter_is_seen(setting: Setting) -> None:
    videos = [setting.render(setting.on_disk(*without)) for without in ((), (HIGH,), (LOW,), (HIGH, LOW))]
    assert len({video for (video,) in videos}) == 4


def test_the_same_seed_gives_the_same_bytes(setting: Setting) -> None:
    first = setting.render(setting.on_disk(), setting.sample(), setting.sample(seed=4), setting.sample(seed=None))
    assert len(set(first)) == 3
    assert setting.render(setting.on_disk(), setting.sample(seed=0)) == [first[2]]  # a missing seed is a fixed one
    assert setting.render(setting.on_disk()) == [first[0]]


def test_a_live_expert_is_what_its_files_would_be(setting: Setting) -> None:
    """The model under training, dropout and gradient checkpointing on, renders as its saved adapter does."""
    saved = setting.render(setting.on_disk())
    transformer, network = setting.train(network_dropout=0.5, gradient_checkpointing=True)
    setting.args.gradient_checkpointing = True
    transformer.train()
    network.train()
    network.unet_loras[0].eval()  # a mode of its own, to be found again
    modes = {module: module.training for module in (*transformer.modules(), *network.modules())}
    setting.trainer.loaded.clear()
    assert setting.render({**setting.on_disk(), LOW: Live(transformer)}) == saved
    assert {module: module.training for module in modes} == modes
    assert [Path(path).stem for path, _ in setting.trainer.loaded] == ["high"]
    assert setting.args.dit == setting.dit[LOW]


def test_base_weights_belong_to_the_expert_on_disk_too(setting: Setting, tmp_path: Path) -> None:
    plain = setting.render(setting.on_disk(LOW))
    setting.args.base_weights, setting.args.base_weights_multiplier = [str(setting.adapter[LOW])], [0.5]
    merged = setting.render(setting.on_disk(LOW))
    assert merged != plain
    transformer, _ = setting.train(network_weights=None)  # upstream merges them; its own network is still zero
    setting.trainer.loaded.clear()
    assert setting.render({**setting.on_disk(LOW), LOW: Live(transformer)}) == merged


def test_random_states_are_untouched(setting: Setting) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    setting.render(setting.on_disk())
    after = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    assert after[0] == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(after[1], before[1], strict=True))
    assert torch.equal(after[2], before[2])


def test_an_end_image_is_the_last_frame_of_the_condition(setting: Setting) -> None:
    """diffusers' layout, mask[:, -1, -1] = 1; upstream's own sampling would append a latent frame."""
    first = setting.render(setting.on_disk(), setting.sample())
    plain = setting.calls[0].condition
    both = setting.render(setting.on_disk(), setting.sample(end_image_path=str(setting.picture)))
    closed = setting.calls[0].condition
    assert both != first
    assert plain is not None
    assert closed is not None
    assert plain.shape == closed.shape == (20, 2, 2, 4)
    assert plain[:4, :, 0, 0].tolist() == [[1, 0], [1, 0], [1, 0], [1, 0]]
    assert closed[:4, :, 0, 0].tolist() == [[1, 0], [1, 0], [1, 0], [1, 1]]
    assert torch.equal(plain[4:, 0], closed[4:, 0])  # the VAE is causal
    assert not torch.allclose(plain[4:, 1], closed[4:, 1])


def test_guidance_is_each_expert_s_own_unless_given(setting: Setting) -> None:
    plain = setting.render(setting.on_disk(), setting.sample(cfg_scale=1.0))
    assert len(setting.calls) == 6
    guided = setting.render(setting.on_disk(), setting.sample(cfg_scale=3.5))
    assert len(setting.calls) == 12
    assert len({call.text for call in setting.calls}) == 2
    assert guided != plain
    assert setting.render(setting.on_disk(), setting.sample(cfg_scale=None)) == guided  # i2v-A14B: 3.5 and 3.5
    setting.trainer.config.sample_guide_scale = (1.0, 3.5)  # low, high, as upstream's configurations have them
    setting.render(setting.on_disk(), setting.sample(cfg_scale=None))
    assert [call.t for call in setting.calls] == [999, 999, 975, 975, 941, 941, 888, 799, 615]


def test_the_videos_say_what_they_are(setting: Setting) -> None:
    setting.render(setting.on_disk(), setting.sample(width=39, height=31, frame_count=8), stem="demo_e000001")
    path = setting.folder / "demo_e000001_00.mp4"
    frames, fps = read_video(path)
    assert (frames.shape, fps) == ((5, 16, 32, 3), 16)
    assert read_comment(path) == {"prompt": "red car", "seed": 3, "steps": 6}


def test_prompts_without_their_images_are_refused_together(setting: Setting) -> None:
    samples = [setting.sample(image_path=None), setting.sample(), setting.sample(end_image_path="absent.png")]
    with pytest.raises(UserError) as raised:
        setting.render(setting.on_disk(), *samples)
    assert [problem.split(",")[0] for problem in raised.value.problems] == [
        "sample prompt 1 image_path: expected the first frame of an image-to-video preview",
        "sample prompt 3 end_image_path: expected an image",
    ]
    assert setting.trainer.loaded == []


def test_a_failure_leaves_the_training_as_it_was(setting: Setting) -> None:
    """The expert on disk cannot be read: modes come back, and the next preview works."""
    transformer, _ = setting.train()
    transformer.train()
    setting.trainer.loaded.clear()
    before = torch.get_rng_state()
    with pytest.raises(FileNotFoundError):
        setting.render({HIGH: Live(transformer), LOW: OnDisk("absent.safetensors", None)})
    assert transformer.training
    assert torch.equal(torch.get_rng_state(), before)
    assert not setting.folder.exists()
    setting.render({HIGH: Live(transformer), LOW: OnDisk(setting.dit[LOW], None)})
