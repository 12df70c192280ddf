"""Keys of three programs: converted in any direction, every tensor is the same to the last bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lora import lora, predict
from torch import Tensor

from musubi_ext.adapters.files import read_lora, write_lora
from musubi_ext.adapters.formats import convert, detect, modules
from musubi_ext.adapters.keys import MODULES, Format, Module, Part, parse_key, spell_key
from musubi_ext.errors import UserError

PAIRS = list(itertools.product(Format, Format))


@st.composite
def loras(draw: st.DrawFn) -> dict[str, Tensor]:
    """LoRAs in musubi keys: any blocks and layers, ranks and alphas of their own, alpha absent here and there."""
    chosen = draw(
        st.lists(
            st.builds(Module, st.integers(0, 60), st.sampled_from(sorted(MODULES))), min_size=1, max_size=6, unique=True
        )
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    tensors = {}
    for module in chosen:
        rank = draw(st.integers(1, 5))
        tensors[spell_key(module, Part.DOWN, Format.MUSUBI)] = torch.randn(rank, 6, generator=generator).to(dtype)
        tensors[spell_key(module, Part.UP, Format.MUSUBI)] = torch.randn(7, rank, generator=generator).to(dtype)
        alpha = draw(st.none() | st.floats(0.01, 100))
        if alpha is not None:
            kind = draw(st.sampled_from([dtype, torch.float32, torch.float64]))
            tensors[spell_key(module, Part.ALPHA, Format.MUSUBI)] = torch.full(
                draw(st.sampled_from([(), (1,)])), alpha, dtype=kind
            )
    return tensors


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


@settings(deadline=None)
@given(tensors=loras())
def test_every_round_trip_in_memory_is_exact(tensors: dict[str, Tensor]) -> None:
    for there, onward in PAIRS:
        first = convert(tensors, there)
        assert detect(first) is there
        assert same(convert(convert(first, onward), Format.MUSUBI), tensors)


@settings(deadline=None, max_examples=30)
@given(tensors=loras())
def test_every_round_trip_through_files_is_exact(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor]
) -> None:
    """Absent alphas stay absent between diffusers and ComfyUI; a musubi file says alpha = rank."""
    folder = tmp_path_factory.mktemp("formats")
    for form in Format:
        write_lora(folder / "a.safetensors", tensors, {"ss_network_dim": "4"}, form)
        back = read_lora(folder / "a.safetensors")
        assert (back.format, back.metadata) == (form, {"ss_network_dim": "4"})
        stated = {key: value for key, value in back.tensors.items() if key in tensors}
        assert same(stated, tensors)
        for key in back.tensors.keys() - tensors.keys():
            assert (form, key[-6:]) == (Format.MUSUBI, ".alpha")
            assert back.tensors[key].item() == len(tensors[key[:-5] + "lora_down.weight"])


def test_keys_are_those_of_the_three_programs() -> None:
    tensors = lora(blocks=1, names=("self_attn.o", "cross_attn.k", "ffn.0"))
    assert [key for key in convert(tensors, Format.DIFFUSERS) if "lora_A" in key] == [
        "transformer.blocks.0.attn1.to_out.0.lora_A.weight",
        "transformer.blocks.0.attn2.to_k.lora_A.weight",
        "transformer.blocks.0.ffn.net.0.proj.lora_A.weight",
    ]
    assert [key for key in convert(tensors, Format.COMFYUI) if "lora_B" in key or "alpha" in key][:2] == [
        "diffusion_model.blocks.0.self_attn.o.lora_B.weight",
        "diffusion_model.blocks.0.self_attn.o.alpha",
    ]
    assert modules(tensors) == [f"lora_unet_blocks_0_{name}" for name in ("cross_attn_k", "ffn_0", "self_attn_o")]


@given(
    st.sampled_from(sorted(MODULES)), st.integers(0, 9999), st.sampled_from(list(Part)), st.sampled_from(list(Format))
)
def test_a_spelled_key_means_what_it_spells(name: str, block: int, part: Part, form: Format) -> None:
    assert parse_key(spell_key(Module(block, name), part, form), form) == (Module(block, name), part)


def test_the_other_spelling_of_comfyui_is_read() -> None:
    tensors = {"diffusion_model.blocks.3.ffn.2.lora_down.weight": torch.ones(1, 2)}
    assert list(convert(tensors, Format.MUSUBI)) == ["lora_unet_blocks_3_ffn_2.lora_down.weight"]
    tensors["diffusion_model.blocks.3.ffn.2.lora_A.weight"] = torch.ones(1, 2)
    with pytest.raises(UserError, match="repeat what other keys say"):
        convert(tensors, Format.MUSUBI)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_blocks_0_norm3.lora_down.weight",
        "lora_unet_blocks_0_self_attn_q.dora_scale",
        "lora_unet_blocks_00_self_attn_q.lora_down.weight",
        "lora_unet_head_head.lora_down.weight",
    ],
)
def test_unknown_keys_are_named_and_never_dropped(key: str) -> None:
    with pytest.raises(UserError, match=f"unknown musubi keys {key}"):
        convert({**lora(blocks=1), key: torch.ones(2, 2)}, Format.COMFYUI)


def test_foreign_and_mixed_files_are_refused() -> None:
    with pytest.raises(UserError, match="no LoRA of Wan: keys unet"):
        detect(["unet.down.0"])
    with pytest.raises(UserError, match=r"no LoRA of Wan: keys \(none\)"):
        detect([])
    with pytest.raises(UserError, match="several formats at once: 1 of musubi, 1 of diffusers"):
        detect(["lora_unet_blocks_0_ffn_0.alpha", "transformer.blocks.0.ffn.net.0.proj.alpha"])


@pytest.mark.parametrize("form", list(Format))
def test_diffusers_itself_reads_every_format_alike(form: Format, pipeline: Any, tmp_path: Path) -> None:
    """alpha/rank included: the same output as ours from the file in any spelling."""
    tensors = lora()
    key = "lora_unet_blocks_1_ffn_0.alpha"
    tensors[key] = torch.tensor(0.5)  # a layer that differs needs the configuration's patterns
    base = predict(pipeline.transformer_2)
    write_lora(tmp_path / "lora.safetensors", tensors, form=form)
    pipeline.load_lora_weights(
        tmp_path, weight_name="lora.safetensors", adapter_name="stock", load_into_transformer_2=True
    )
    loaded = predict(pipeline.transformer_2)
    layer = dict(pipeline.transformer_2.named_modules())["blocks.1.ffn.net.0.proj"]
    delta = layer.scaling["stock"] * (layer.lora_B["stock"].weight @ layer.lora_A["stock"].weight)
    up, down = tensors["lora_unet_blocks_1_ffn_0.lora_up.weight"], tensors["lora_unet_blocks_1_ffn_0.lora_down.weight"]
    torch.testing.assert_close(delta, (0.5 / 4) * up @ down)
    assert not torch.allclose(loaded, base, atol=1e-3)
