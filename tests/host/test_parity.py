"""Same weights, batch, noise and timestep: musubi-tuner's model and ours give the same loss and the same gradients.

With one difference, which the last test pins down: musubi-tuner rounds query, key and value to bfloat16 before its sdpa
attention, whatever the precision of the model (wan/modules/attention.py, `half`); ours attends in the model's own. So
that everything else can be held to float32's accuracy, that rounding is taken out of its attention here.
"""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from musubi_ext.adapters.files import read_lora, write_lora
from musubi_ext.adapters.formats import Format, convert
from musubi_ext.hosts.musubi.pocket_task import PocketParts
from musubi_ext.hosts.pocket import PocketHost
from musubi_ext.hosts.pocket_model import lora_layers, lora_state, transformer_folder
from musubi_ext.pocket import pipeline_path
from musubi_ext.pocket.upstream import export_experts
from musubi_ext.schedule.experts import Expert, timestep_range

FLOAT = torch.float32
ATTENTION = "musubi_tuner.wan.modules.model.flash_attention"
LOSS, GRADIENT = 1e-5, 1e-4  # largest relative differences
Build = Callable[..., Namespace]


@dataclass
class Arm:
    """A trainer with its model and the adapter in it; `matrices` by musubi-tuner's key."""

    trainer: Any
    args: Namespace
    accelerator: Any
    transformer: Any
    network: Any
    matrices: dict[str, nn.Parameter]

    def predict(self, batch: dict[str, Any], t: float) -> Tensor:
        """The velocity at noise level t."""
        return self._call(batch, t)[0].pred.detach()

    def step(self, batch: dict[str, Any], t: float) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradients at noise level t."""
        output, timesteps = self._call(batch, t)
        arguments = (self.args, output, timesteps, None, FLOAT, FLOAT, 0)
        known = len(inspect.signature(self.trainer.compute_loss).parameters)  # v0.3.0 has no global_step
        loss = self.trainer.compute_loss(*arguments[:known])[0]
        gradients = torch.autograd.grad(loss, list(self.matrices.values()))
        return loss.item(), dict(zip(self.matrices, gradients, strict=True))

    def _call(self, batch: dict[str, Any], t: float) -> tuple[Any, Tensor]:
        latents, noise = batch["latents"], batch["noise"]
        timesteps = torch.full((len(latents),), 1000 * t + 1)
        noisy = (1 - t) * latents + t * noise
        arguments = (latents, batch, noise, noisy, timesteps, FLOAT)
        return self.trainer.call_dit(self.args, self.accelerator, self.transformer, *arguments), timesteps


def upstream_arm(host: ModuleType, args: Namespace) -> Arm:
    """musubi-tuner's own, as far as `train` goes before its optimizer."""
    trainer = type("Upstream", (PocketParts, host.WanNetworkTrainer), {})()
    trainer.handle_model_specific_args(args)
    accelerator, weight_dtype, _, dit_weight_dtype, _ = trainer._prepare_accelerator_and_dtypes(args)
    transformer = trainer._load_dit_and_swap(args, accelerator, dit_weight_dtype)
    network = trainer._build_network(args, accelerator, transformer, None, weight_dtype)
    network.prepare_grad_etc(transformer)
    return Arm(trainer, args, accelerator, transformer, network, dict(network.named_parameters()))


def pocket_arm(args: Namespace, pipeline: Path, expert: Expert, accelerator: Any) -> Arm:
    """Ours on the same expert."""
    trainer = PocketHost()
    trainer.handle_model_specific_args(Namespace(t5=pipeline))
    folder = str(transformer_folder(pipeline, expert))
    transformer = trainer.load_transformer(accelerator, args, folder, "torch", False, "cpu", FLOAT)
    trainer._build_network(args, transformer)
    matrices: dict[str, Any] = {}
    for name, down, up, _ in lora_layers(transformer):
        matrices[f"transformer.{name}.lora_A.weight"], matrices[f"transformer.{name}.lora_B.weight"] = down, up
    named: Any = convert(matrices, Format.MUSUBI)
    return Arm(trainer, args, accelerator, transformer, transformer, named)


def both_arms(host: ModuleType, args: Namespace, pipeline: Path, expert: Expert) -> tuple[Arm, Arm]:
    """The two with the same adapter, in which nothing is zero."""
    theirs = upstream_arm(host, args)
    ours = pocket_arm(args, pipeline, expert, theirs.accelerator)
    assert ours.matrices.keys() == theirs.matrices.keys()
    torch.manual_seed(1)
    with torch.no_grad():
        for key, matrix in theirs.matrices.items():
            ours.matrices[key].copy_(nn.init.normal_(matrix, std=0.2))
    return theirs, ours


def five_times(expert: Expert) -> list[float]:
    low, high = timestep_range(expert, 0.9)
    return [low + share * (high - low) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def batch() -> dict[str, Any]:
    """Two clips of 17 frames at 64×64; one text is longer than the pocket model reads."""
    torch.manual_seed(0)
    latents = torch.randn(2, 16, 5, 8, 8)
    image = torch.randn(2, 20, 5, 8, 8)
    texts = [torch.randn(7, 64), torch.randn(30, 64)]
    return {"latents": latents, "noise": torch.randn_like(latents), "latents_image": image, "t5": texts}


@pytest.fixture
def attention_as_precise_as_the_model(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(qkv: list[Tensor], **options: Any) -> Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in qkv)
        return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    monkeypatch.setattr(ATTENTION, attend)


@pytest.mark.parametrize("expert", Expert)
@pytest.mark.parametrize("weights", ["tiny", "shipped"])
@pytest.mark.usefixtures("attention_as_precise_as_the_model")
def test_loss_and_gradients_are_musubi_tuner_s(
    weights: str,
    expert: Expert,
    host: ModuleType,
    host_args: Build,
    tiny_pipeline: Path,
    tmp_path: Path,
    batch: dict[str, Any],
) -> None:
    pipeline = tiny_pipeline if weights == "tiny" else pipeline_path()
    args = host_args(dit=export_experts(pipeline, tmp_path)[expert], t5=pipeline)
    theirs, ours = both_arms(host, args, pipeline, expert)
    for t in five_times(expert):
        expected_loss, expected = theirs.step(batch, t)
        loss, gradients = ours.step(batch, t)
        assert loss == pytest.approx(expected_loss, rel=LOSS), t
        far = {key: far for key in expected if (far := difference(gradients[key], expected[key])) > GRADIENT}
        assert not far, t
    assert [text.shape for text in batch["t5"]] == [(7, 64), (30, 64)]  # widened in a copy


@pytest.mark.usefixtures("attention_as_precise_as_the_model")
def test_an_adapter_that_musubi_tuner_saved_gives_the_same_video_here(
    host: ModuleType,
    host_args: Build,
    pocket_files: dict[Expert, Path],
    tiny_pipeline: Path,
    tmp_path: Path,
    batch: dict[str, Any],
) -> None:
    from diffusers import WanImageToVideoPipeline

    theirs, _ = both_arms(host, host_args(dit=pocket_files[Expert.HIGH]), tiny_pipeline, Expert.HIGH)
    path = tmp_path / "theirs.safetensors"
    theirs.network.save_weights(path, FLOAT, {"ss_network_dim": "4"})
    read, saved = read_lora(path), theirs.network.state_dict()
    assert read.metadata["ss_network_dim"] == "4"
    assert read.tensors.keys() == saved.keys()
    assert all(torch.equal(tensor, saved[key].float()) for key, tensor in read.tensors.items())
    pipeline = WanImageToVideoPipeline.from_pretrained(tiny_pipeline)
    pipeline.load_lora_weights(path)
    stock = pocket_arm(theirs.args, tiny_pipeline, Expert.HIGH, theirs.accelerator)
    stock.transformer = pipeline.transformer
    assert difference(stock.predict(batch, 0.95), theirs.predict(batch, 0.95)) < LOSS


@pytest.mark.usefixtures("attention_as_precise_as_the_model")
def test_an_adapter_that_we_wrote_gives_the_same_video_there(
    host: ModuleType, host_args: Build, tiny_pipeline: Path, tmp_path: Path, batch: dict[str, Any]
) -> None:
    import musubi_tuner.networks.lora_wan as module

    args = host_args()
    _, ours = both_arms(host, args, tiny_pipeline, Expert.LOW)
    path = tmp_path / "ours.safetensors"
    write_lora(path, lora_state(ours.transformer, FLOAT))
    trainer = type("Upstream", (PocketParts, host.WanNetworkTrainer), {})()
    trainer.handle_model_specific_args(args)
    transformer = trainer._load_dit_and_swap(args, ours.accelerator, FLOAT)
    plain = Arm(trainer, args, ours.accelerator, transformer, None, {})
    without = plain.predict(batch, 0.5)
    network = module.create_arch_network_from_weights(1.0, load_file(path), unet=transformer)
    network.apply_to(None, transformer, apply_text_encoder=False, apply_unet=True)
    loaded = network.load_weights(str(path))
    assert not loaded.missing_keys
    assert not loaded.unexpected_keys
    assert difference(plain.predict(batch, 0.5), ours.predict(batch, 0.5)) < LOSS
    assert difference(without, ours.predict(batch, 0.5)) > 1e-2


def test_musubi_tuner_attends_in_bfloat16_and_nothing_else_differs(
    host: ModuleType, host_args: Build, tiny_pipeline: Path, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = both_arms(host, host_args(), tiny_pipeline, Expert.LOW)
    attend, seen = nn.functional.scaled_dot_product_attention, []

    def in_bfloat16(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        seen.append(query.dtype)
        rounded = (tensor.bfloat16() for tensor in (query, key, value))
        return attend(*rounded, **options).to(query.dtype)

    expected = theirs.predict(batch, 0.5)
    apart = difference(ours.predict(batch, 0.5), expected)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", in_bfloat16)
    assert torch.equal(theirs.predict(batch, 0.5), expected)  # it was in bfloat16 already
    assert set(seen) == {torch.bfloat16}
    together = difference(ours.predict(batch, 0.5), expected)
    assert set(seen) == {torch.bfloat16, torch.float32}
    assert 1e-4 < apart < 1e-2
    assert together < apart / 3  # not equal: a last bit in float32 flips a bfloat16 here and there
