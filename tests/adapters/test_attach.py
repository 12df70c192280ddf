"""A pair in a real diffusers pipeline: like merging it, gone without a trace, refused when it does not belong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lora import lora, predict

from musubi_ext.adapters.files import write_lora
from musubi_ext.adapters.keys import LINEARS
from musubi_ext.adapters.manifest import transformer_shape
from musubi_ext.adapters.pair import AdapterPair, remove
from musubi_ext.adapters.updates import updates
from musubi_ext.errors import UserError
from musubi_ext.schedule.experts import Expert


def merged(model: Any, tensors: dict[str, torch.Tensor], strength: float) -> Any:
    """A copy of the expert with W + strength·(alpha/rank)·up @ down for its weights."""
    clone = copy.deepcopy(model)
    layers = dict(clone.named_modules())
    for module, update in updates(tensors).items():
        layers[module.diffusers].weight.data += (strength * update.delta()).float()
    return clone


@pytest.mark.parametrize("names", [LINEARS, ("self_attn.q", "ffn.2")])
def test_applied_is_merged(pipeline: Any, folder: Path, names: tuple[str, ...]) -> None:
    """Whole adapters and partial ones, each expert at a strength of its own."""
    high, low = lora(1, names=names), lora(2, rank=3, names=names)
    expected = {
        Expert.HIGH: predict(merged(pipeline.transformer, high, 0.7)),
        Expert.LOW: predict(merged(pipeline.transformer_2, low, 0.3)),
    }
    AdapterPair.save(folder, "orbit", high, low).apply(pipeline, strength_high=0.7, strength_low=0.3)
    for expert in Expert:
        torch.testing.assert_close(predict(getattr(pipeline, expert.component)), expected[expert], rtol=1e-4, atol=1e-5)
    pipeline.set_adapters("pair", {"transformer": 0.0, "transformer_2": 1.0})  # strengths may change afterwards
    torch.testing.assert_close(
        predict(pipeline.transformer_2), predict(merged_base(pipeline, low)), rtol=1e-4, atol=1e-5
    )


def merged_base(pipeline: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The low-noise expert without its adapter, merged at strength 1."""
    clone = copy.deepcopy(pipeline.transformer_2)
    clone.unload_lora()
    return merged(clone, tensors, 1.0)


def test_matrices_of_the_file_are_the_ones_in_the_layers(pipeline: Any, folder: Path) -> None:
    """alpha/rank = 3/4 is not folded in; half-precision files lose nothing on the way into a float32 model."""
    high = {key: tensor.half() for key, tensor in lora(1).items()}
    AdapterPair.save(folder, "orbit", high, lora(2)).apply(pipeline)
    layer = dict(pipeline.transformer.named_modules())["blocks.1.attn1.to_v"]
    assert torch.equal(layer.lora_A["pair"].weight, high["lora_unet_blocks_1_self_attn_v.lora_down.weight"].float())
    assert layer.scaling["pair"] == 0.75


def test_removed_is_bit_exact(pipeline: Any, folder: Path) -> None:
    before = [predict(model) for model in (pipeline.transformer, pipeline.transformer_2)]
    keys = list(pipeline.transformer.state_dict())
    state = torch.get_rng_state()
    pair = AdapterPair.save(folder, "orbit", lora(1), lora(2))
    for _ in range(2):  # and it can be put in again
        pair.apply(pipeline)
        assert not torch.equal(predict(pipeline.transformer), before[0])
        remove(pipeline)
        for model, output in zip((pipeline.transformer, pipeline.transformer_2), before, strict=True):
            assert torch.equal(predict(model), output)
    assert list(pipeline.transformer.state_dict()) == keys
    assert torch.equal(torch.get_rng_state(), state)  # nor does applying disturb a seeded run
    remove(pipeline)  # nothing in: nothing to do


def test_other_adapters_stay_active(pipeline: Any, folder: Path, tmp_path: Path) -> None:
    """A few-step LoRA stays on beneath the pair, as Circle-Rotate's inference has it; removing leaves it as it was."""
    write_lora(tmp_path / "steps.safetensors", lora(5))
    pipeline.load_lora_weights(tmp_path, weight_name="steps.safetensors", adapter_name="steps")
    alone = predict(pipeline.transformer)
    bare = copy.deepcopy(pipeline.transformer)
    bare.unload_lora()
    AdapterPair.save(folder, "orbit", lora(1), lora(2)).apply(pipeline, strength_high=0.5)
    both = predict(merged(merged(bare, lora(5), 1.0), lora(1), 0.5))
    torch.testing.assert_close(predict(pipeline.transformer), both, rtol=1e-4, atol=1e-5)
    remove(pipeline)
    assert torch.equal(predict(pipeline.transformer), alone)


def refused(pair: AdapterPair, pipeline: Any, message: str) -> UserError:
    """The error of an apply that must leave the pipeline as it was."""
    before = predict(pipeline.transformer)
    with pytest.raises(UserError, match=message) as told:
        pair.apply(pipeline)
    assert not any(pipeline.get_list_adapters().values())
    assert torch.equal(predict(pipeline.transformer), before)
    return told.value


def test_a_pair_of_another_base_names_both(pipeline: Any, folder: Path) -> None:
    shape = {"dim": 5120, "layers": 40, "heads": 40, "ffn_dim": 13824, "in_channels": 36}
    pair = AdapterPair.save(folder, "orbit", lora(1), lora(2), task="i2v-A14B", transformer=shape)
    error = refused(pair, pipeline, r"wrong base: expected Wan-AI/Wan2.2-I2V-A14B \(dim 5120, layers 40")
    assert "found tiny-wan (dim 32, layers 2, heads 2, ffn_dim 48, in_channels 36)" in str(error)
    assert len(error.problems) == 2  # both experts


def test_the_manifest_of_the_right_shape_is_accepted(pipeline: Any, folder: Path) -> None:
    shape = transformer_shape(pipeline.transformer.config)
    AdapterPair.save(folder, "orbit", lora(1), lora(2), transformer=shape).apply(pipeline)
    assert pipeline.get_list_adapters() == {"transformer": ["pair"], "transformer_2": ["pair"]}


def test_blocks_and_layers_that_the_pipeline_lacks(pipeline: Any, folder: Path) -> None:
    error = refused(AdapterPair.save(folder, "a", lora(1, blocks=3), lora(2)), pipeline, "layers 3")
    assert "blocks.2.attn1.to_q is missing" in str(error)
    image = lora(1, names=("cross_attn.k_img",))
    refused(AdapterPair.save(folder, "b", image, lora(2)), pipeline, "add_k_proj is missing")
    wide = lora(1, names=("self_attn.q",))
    wide["lora_unet_blocks_0_self_attn_q.lora_down.weight"] = torch.ones(4, 31)
    refused(
        AdapterPair.save(folder, "c", lora(2), wide), pipeline, r"attn1.to_q is \(32, 32\), the pair's is \(32, 31\)"
    )


def test_a_pair_without_effect_is_refused(pipeline: Any, folder: Path) -> None:
    zero = {key: tensor * 0 if "lora_up" in key else tensor for key, tensor in lora(1).items()}
    refused(AdapterPair.save(folder, "orbit", lora(1), zero), pipeline, "low-noise expert: every update is zero")


def test_the_same_name_twice_is_refused_and_the_first_stays(pipeline: Any, folder: Path) -> None:
    pair = AdapterPair.save(folder, "orbit", lora(1), lora(2))
    pair.apply(pipeline)
    applied = predict(pipeline.transformer)
    with pytest.raises(UserError, match="an adapter named pair is loaded already"):
        pair.apply(pipeline)
    with pytest.raises(UserError, match="strength nan"):
        pair.apply(pipeline, strength_low=float("nan"), adapter_name="second")
    assert torch.equal(predict(pipeline.transformer), applied)


def test_a_pipeline_of_one_expert_is_refused(pipeline: Any, folder: Path) -> None:
    pair = AdapterPair.save(folder, "orbit", lora(1), lora(2))
    single = type(pipeline)(
        **{**pipeline.components, "transformer_2": None, "image_encoder": None, "image_processor": None}
    )
    with pytest.raises(UserError, match="the pipeline has no transformer_2"):
        pair.apply(single)


def test_two_pairs_are_both_active(pipeline: Any, folder: Path) -> None:
    expected = predict(merged(merged(pipeline.transformer, lora(1), 1.0), lora(3), 0.25))
    AdapterPair.save(folder, "a", lora(1), lora(2)).apply(pipeline, adapter_name="a")
    AdapterPair.save(folder, "b", lora(3), lora(4)).apply(pipeline, strength_high=0.25, adapter_name="b")
    torch.testing.assert_close(predict(pipeline.transformer), expected, rtol=1e-4, atol=1e-5)
    remove(pipeline, "a")
    remove(pipeline, "b")
