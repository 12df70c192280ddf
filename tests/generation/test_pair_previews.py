"""Previews of a pair under training: both experts, any adapters, and no trace in the random states."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.generation.circle_rotate import CircleRotate
from musubi_ext.generation.previews import render_previews
from musubi_ext.generation.sample_prompts import SamplePrompt
from musubi_ext.schedule.experts import Expert
from musubi_ext.video import read_comment, read_video

WHOLE = {"shift": 8.0, "strength_high": 1.0, "strength_low": 1.0}  # the pair's own strengths are 0.8 and 0.9


@pytest.fixture
def prompt(picture: Path) -> SamplePrompt:
    return SamplePrompt("red car", picture, width=32, height=32, frames=5, seed=3, steps=4, shift=8.0)


@pytest.fixture
def trained(pair: AdapterPair) -> dict[Expert, dict[str, Tensor]]:
    return {expert: pair.state_dict(expert) for expert in Expert}


def render(
    base: Path, adapters: dict[Expert, dict[str, Tensor] | None], prompt: SamplePrompt, folder: Path, stem: str = "p"
) -> bytes:
    (path,) = render_previews(base, adapters, [prompt], folder, stem, "cpu")
    return path.read_bytes()


def frames_of(folder: Path, stem: str = "p") -> np.ndarray:
    return read_video(folder / f"{stem}_00.mp4")[0]


def test_one_video_and_one_filmstrip_for_each_prompt(
    base: Path, trained: dict[Expert, dict[str, Tensor]], prompt: SamplePrompt, tmp_path: Path
) -> None:
    folder = tmp_path / "previews"
    paths = render_previews(base, trained, [prompt, prompt], folder, "demo_e000002", torch.device("cpu"))
    assert [path.name for path in paths] == ["demo_e000002_00.mp4", "demo_e000002_01.mp4"]
    assert sorted(path.name for path in folder.iterdir()) == [
        f"demo_e000002_{index:02d}.{kind}" for index in (0, 1) for kind in ("mp4", "png")
    ]
    assert paths[0].read_bytes() != b""
    assert read_video(paths[0])[0].shape == (5, 32, 32, 3)
    assert read_comment(paths[0])["request"]["seed"] == 3
    with Image.open(paths[0].with_suffix(".png")) as strip:
        assert strip.width > 5 * 128


def test_it_is_what_the_saved_pair_generates(
    base: Path, pair: AdapterPair, trained: dict[Expert, dict[str, Tensor]], prompt: SamplePrompt, tmp_path: Path
) -> None:
    """Bit for bit, through the encoder too: `musubi-ext generate` confirms what the preview promised."""
    render(base, trained, prompt, tmp_path)
    rotate = CircleRotate(base, pair)
    request = rotate.request(prompt.image, "red car", size=(32, 32), frames=5, seed=3, steps=4, fps=8.0, **WHOLE)
    rotate.run(request).save(tmp_path / "generated_00.mp4")
    np.testing.assert_array_equal(frames_of(tmp_path), frames_of(tmp_path, "generated"))


def test_each_expert_s_adapter_is_seen(
    base: Path, trained: dict[Expert, dict[str, Tensor]], prompt: SamplePrompt, tmp_path: Path
) -> None:
    both = render(base, trained, prompt, tmp_path)
    none = render(base, {Expert.HIGH: None, Expert.LOW: None}, prompt, tmp_path)
    high = render(base, {**trained, Expert.LOW: None}, prompt, tmp_path)
    low = render(base, {**trained, Expert.HIGH: None}, prompt, tmp_path)
    assert len({both, none, high, low}) == 4
    zero = {
        key: torch.zeros_like(tensor) if "lora_up" in key else tensor for key, tensor in trained[Expert.LOW].items()
    }
    render(base, {**trained, Expert.LOW: zero}, prompt, tmp_path, "zero")  # as before the first step
    render(base, {**trained, Expert.LOW: None}, prompt, tmp_path)
    np.testing.assert_array_equal(frames_of(tmp_path), frames_of(tmp_path, "zero"))


def test_the_same_prompt_gives_the_same_bytes(base: Path, prompt: SamplePrompt, tmp_path: Path) -> None:
    assert render(base, {}, prompt, tmp_path / "a") == render(base, {}, prompt, tmp_path / "b")


def test_a_last_frame_and_guidance_count(base: Path, prompt: SamplePrompt, tmp_path: Path) -> None:
    plain = render(base, {}, prompt, tmp_path)
    assert render(base, {}, replace(prompt, end_image=prompt.image), tmp_path) != plain
    guided = render(base, {}, replace(prompt, cfg=4.0), tmp_path)
    assert guided != plain
    assert render(base, {}, replace(prompt, cfg=4.0, negative_prompt="grey"), tmp_path) != guided


def test_random_states_are_untouched(
    base: Path, trained: dict[Expert, dict[str, Tensor]], prompt: SamplePrompt, tmp_path: Path
) -> None:
    """Also where the rendering fails. What a training draws next does not depend on its previews."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    render(base, trained, prompt, tmp_path)
    with pytest.raises(UserError, match="no such file"):
        render(base, trained, SamplePrompt("car", tmp_path / "absent.png"), tmp_path)
    after = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    assert after[0] == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(after[1], before[1], strict=True))
    assert torch.equal(after[2], before[2])


def test_live_parameters_are_copied(
    base: Path, trained: dict[Expert, dict[str, Tensor]], prompt: SamplePrompt, tmp_path: Path
) -> None:
    """Tensors that are being trained go in as they are, and come out unchanged and without gradients."""
    live = {key: torch.nn.Parameter(tensor.clone()) for key, tensor in trained[Expert.HIGH].items()}
    assert render(base, {Expert.HIGH: live, Expert.LOW: trained[Expert.LOW]}, prompt, tmp_path) == render(
        base, trained, prompt, tmp_path
    )
    assert all(
        torch.equal(live[key], tensor) and live[key].grad is None for key, tensor in trained[Expert.HIGH].items()
    )


def test_an_adapter_of_another_model_is_refused(
    base: Path, trained: dict[Expert, dict[str, Tensor]], prompt: SamplePrompt, tmp_path: Path
) -> None:
    deeper = {key.replace("blocks_1", "blocks_9"): tensor for key, tensor in trained[Expert.LOW].items()}
    with pytest.raises(UserError, match=r"low-noise adapter: the pipeline has no layers blocks\.9"):
        render(base, {Expert.LOW: deeper}, prompt, tmp_path)
    broken = {key: tensor * float("nan") for key, tensor in trained[Expert.LOW].items()}
    with pytest.raises(UserError, match="low-noise adapter: NaN or infinity"):
        render(base, {Expert.LOW: broken}, prompt, tmp_path)
    assert not any(tmp_path.glob("p_*"))
