"""CLIP-I, subject consistency and LPIPS: closed forms, identities, equality with the definitions written plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import cosine_similarity, interpolate

from musubi_ext.evaluation.clip import Clip
from musubi_ext.evaluation.features import PINNED, ModelSource, Network
from musubi_ext.evaluation.features.loaded import loaded
from musubi_ext.evaluation.metrics import METRICS
from musubi_ext.evaluation.metrics.clip_i import first_last, frame_acc, global_avg
from musubi_ext.evaluation.metrics.subject_consistency import consistency
from musubi_ext.evaluation.result import Reading, UnavailableError
from musubi_ext.evaluation.suite import evaluate
from musubi_ext.evaluation.truth import Truth
from musubi_ext.storage import sha256
from musubi_ext.video import Frames

SIMILARITIES = (
    "clip_i_first_last",
    "clip_i_global_avg",
    "clip_i_frame_acc",
    "vbench_sc_circle_rotate",
    "subject_consistency",
)
Video = Callable[..., Frames]


def measure(name: str, frames: Frames, models: ModelSource, truth: Truth | None = None) -> Reading:
    return METRICS[name].compute(Clip(frames, truth, models=models))


def truth_with(frames: Frames) -> Truth:
    return Truth(frames, np.zeros(frames.shape[:3], bool), np.zeros(len(frames), np.float32), 0)


@contextmanager
def pictures_seen(models: ModelSource, network: Network) -> Iterator[list[int]]:
    """Sizes of the batches that the network was given."""
    sizes: list[int] = []
    model = loaded(models, network).model
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        yield sizes
    finally:
        handle.remove()


def sixteen(frames: Frames) -> list[Image.Image]:
    return [Image.fromarray(frames[i]) for i in np.linspace(0, len(frames) - 1, 16, dtype=int)]


class TestFormulas:
    def test_features_at_right_angles_are_similar_to_themselves_only(self) -> None:
        features = np.eye(16)
        assert first_last(features) == 0
        assert global_avg(features) == 1 / 16  # the first frame with itself, as published
        assert frame_acc(features) == 0
        assert consistency(features) == 0

    def test_a_turn_by_a_constant_angle(self) -> None:
        angles = np.deg2rad(10) * np.arange(4)
        features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        assert first_last(features) == pytest.approx(np.cos(np.deg2rad(30)))
        assert global_avg(features) == pytest.approx(np.cos(np.deg2rad([0, 10, 20, 30])).mean())
        assert frame_acc(features) == pytest.approx(np.cos(np.deg2rad(10)))
        both = [(np.cos(np.deg2rad(10)) + np.cos(np.deg2rad(to_first))) / 2 for to_first in (10, 20, 30)]
        assert consistency(features) == pytest.approx(np.mean(both))

    def test_consistency_counts_opposites_as_strangers(self) -> None:
        assert consistency(np.array([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])) == pytest.approx((0 + 0.5) / 2)


class TestAgainstTheDefinitions:
    @pytest.mark.parametrize("count", [2, 5, 37])
    def test_clip_i(self, count: int, weights: Path, models: ModelSource, video: Video) -> None:
        from transformers import CLIPModel

        pil = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
        frames = video(count)
        model = CLIPModel.from_pretrained(weights / "clip-vit-base-patch32").eval()
        processor = pil.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        with torch.no_grad():
            found = model.get_image_features(**processor(images=sixteen(frames), return_tensors="pt"))
        features = getattr(found, "pooler_output", found)
        features = features / features.norm(p=2, dim=-1, keepdim=True)
        expected = {
            "clip_i_first_last": torch.dot(features[0], features[-1]).item(),
            "clip_i_global_avg": (features @ features[0]).mean().item(),
            "clip_i_frame_acc": cosine_similarity(features[:-1], features[1:]).mean().item(),
        }
        values = {name: measure(name, frames, models).value for name in expected}
        assert values == pytest.approx(expected, abs=2e-6)
        assert values["clip_i_first_last"] < 0.999  # frames differ, or this test says nothing

    def test_vbench_sc_of_circle_rotate(self, weights: Path, models: ModelSource, video: Video) -> None:
        def prepared(picture: Image.Image) -> torch.Tensor:
            resized = np.asarray(picture.resize((384, 256), Image.Resampling.BILINEAR))  # 72×48, shorter side to 256
            cropped = torch.from_numpy(resized[16:240, 80:304].copy()).permute(2, 0, 1) / 255
            return (cropped - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
                :, None, None
            ]

        frames = video(23)
        features = plain_dino(weights, torch.stack([prepared(picture) for picture in sixteen(frames)]))
        reading = measure("vbench_sc_circle_rotate", frames, models)
        assert reading.value == pytest.approx(plain_consistency(features), abs=2e-6)
        assert reading.frames == 16
        assert reading.value < 0.99

    @pytest.mark.parametrize(
        ("size", "resized_to"),
        [((48, 72), (224, 336)), ((560, 420), (298, 224))],
        ids=["small", "large"],  # only reducing shows whether frequencies are cut
    )
    def test_subject_consistency_of_vbench(
        self, size: tuple[int, int], resized_to: tuple[int, int], weights: Path, models: ModelSource, video: Video
    ) -> None:
        frames = video(19, *size)
        pictures = torch.tensor(frames).permute(0, 3, 1, 2).float()
        resized = interpolate(pictures, resized_to, mode="bilinear", align_corners=False) / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        reading = measure("subject_consistency", frames, models)
        expected = plain_consistency(plain_dino(weights, (resized - mean) / std))
        assert reading.value == pytest.approx(expected, abs=2e-6)
        assert reading.frames == 19
        assert abs(reading.value - measure("vbench_sc_circle_rotate", frames, models).value) > 1e-4

    def test_lpips(self, weights: Path, models: ModelSource, video: Video) -> None:
        first, last = video(2, 60, 96)
        expected = plain_lpips(weights, first, last)
        assert measure("lpips_first_last", np.stack([first, last]), models).value == pytest.approx(expected, rel=1e-5)
        assert expected > 0.01

    def test_lpips_against_the_truth_is_the_mean_over_frames(
        self, weights: Path, models: ModelSource, video: Video
    ) -> None:
        ours, true = video(5), video(5, seed=1)
        expected = np.mean([plain_lpips(weights, a, b) for a, b in zip(ours, true, strict=True)])
        assert measure("lpips", ours, models, truth_with(true)).value == pytest.approx(expected, rel=1e-5)


class TestIdentities:
    @pytest.mark.parametrize("count", [2, 40])
    @pytest.mark.parametrize("name", SIMILARITIES)
    def test_a_static_video_is_like_itself(self, name: str, count: int, models: ModelSource, video: Video) -> None:
        still = np.repeat(video(1), count, axis=0)
        assert measure(name, still, models).value == pytest.approx(1, abs=1e-10)

    def test_lpips_of_identical_pictures_is_nothing(self, models: ModelSource, video: Video) -> None:
        frames = video(6)
        assert measure("lpips", frames, models, truth_with(frames.copy())).value == 0
        assert measure("lpips_first_last", np.repeat(frames[:1], 3, axis=0), models).value == 0

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(31, 60), st.integers(31, 60))
    def test_values_lie_in_their_range(
        self, models: ModelSource, seed: int, count: int, height: int, width: int
    ) -> None:
        frames = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        for name in (*SIMILARITIES, "lpips_first_last"):
            low, high = METRICS[name].range
            value = measure(name, frames, models).value
            assert np.isfinite(value)
            assert low is None or value >= low
            assert high is None or value <= high


class TestWork:
    def test_metrics_of_a_clip_share_features_and_embed_a_frame_once(self, models: ModelSource, video: Video) -> None:
        clip = Clip(video(9), models=models)  # the sixteen samples repeat some of nine frames
        with pictures_seen(models, Network.CLIP) as of_clip, pictures_seen(models, Network.DINO) as of_dino:
            for name in SIMILARITIES:
                METRICS[name].compute(clip)
        assert of_clip == [9]
        assert of_dino == [9, 9]  # once for each of the two transforms

    def test_batches_are_bounded(self, models: ModelSource, video: Video) -> None:
        with pictures_seen(models, Network.DINO) as sizes:
            measure("subject_consistency", video(37), models)
        assert sizes == [16, 16, 5]

    def test_another_clip_has_its_own_features(self, models: ModelSource, video: Video) -> None:
        values = {measure("clip_i_first_last", video(4, seed=seed), models).value for seed in range(3)}
        assert len(values) == 3

    def test_the_same_frames_give_the_same_bits(self, models: ModelSource, video: Video) -> None:
        frames = video(18)
        for name in (*SIMILARITIES, "lpips_first_last"):
            assert measure(name, frames, models).value == measure(name, frames.copy(), models).value


class TestResults:
    def test_a_result_names_the_loaded_weights_and_their_licence(
        self, weights: Path, models: ModelSource, video: Video
    ) -> None:
        clip = sha256(weights / "clip-vit-base-patch32" / "model.safetensors")[:12]
        dino = sha256(weights / "dino-vitb16" / "model.safetensors")[:12]
        alexnet, head = (sha256(weights / name)[:12] for name in ("alexnet.safetensors", "lpips_alex.pth"))
        assert f"openai/clip-vit-base-patch32 sha256 {clip}" in measure("clip_i_frame_acc", video(3), models).backend
        assert f"facebook/dino-vitb16 sha256 {dino}" in measure("subject_consistency", video(3), models).backend
        lpips = measure("lpips_first_last", video(3), models).backend
        assert f"sha256 {alexnet}" in lpips
        assert f"lpips_alex.pth sha256 {head}, not the pinned weights" in lpips
        assert METRICS["clip_i_frame_acc"].licence == "MIT"
        assert METRICS["subject_consistency"].licence == METRICS["vbench_sc_circle_rotate"].licence == "Apache-2.0"
        assert METRICS["lpips"].licence == "BSD-2-Clause (LPIPS), BSD-3-Clause (AlexNet)"

    def test_no_default_weights_are_agpl_or_non_commercial(self) -> None:
        allowed = {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause"}
        named_by_the_user = {Network.INCEPTION, Network.I3D}
        assert {row.licence for network, row in PINNED.items() if network not in named_by_the_user} <= allowed

    def test_through_the_suite(self, models: ModelSource, video: Video) -> None:
        results = evaluate(video(12), metrics=[*SIMILARITIES, "lpips_first_last", "lpips"], models=models)
        assert all(result.value is not None for name, result in results.items() if name != "lpips")
        assert results["lpips"].unavailable == "no truth was given for this clip"
        assert results["clip_i_first_last"].licence == "MIT"
        assert results["clip_i_first_last"].backend == models.backend(Network.CLIP)

    @pytest.mark.parametrize("name", [*SIMILARITIES, "lpips_first_last"])
    def test_one_frame_has_no_similarity(self, name: str, models: ModelSource, video: Video) -> None:
        with pytest.raises(UnavailableError, match="two frames, the clip has one"):
            measure(name, video(1), models)

    def test_pictures_too_small_for_alexnet(self, models: ModelSource) -> None:
        with pytest.raises(UnavailableError, match="LPIPS needs 31 pixels a side, the pictures have 64x30"):
            measure("lpips_first_last", np.zeros((2, 30, 64, 3), np.uint8), models)


def plain_dino(weights: Path, pictures: torch.Tensor) -> torch.Tensor:
    """DINO's class token written from facebookresearch/dino's positions and transformers' layers."""
    from transformers import ViTModel

    model = ViTModel.from_pretrained(weights / "dino-vitb16", add_pooling_layer=False).eval()
    rows, columns = pictures.shape[2] // 16, pictures.shape[3] // 16
    positions = model.embeddings.position_embeddings.detach()
    if (rows, columns) != (14, 14):
        grid = positions[:, 1:].reshape(1, 14, 14, 24).permute(0, 3, 1, 2)
        grid = interpolate(grid, scale_factor=((rows + 0.1) / 14, (columns + 0.1) / 14), mode="bicubic")
        positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, rows * columns, 24)], dim=1)
    model.embeddings.interpolate_pos_encoding = lambda *_: positions
    features = []
    with torch.no_grad():
        for picture in pictures:  # one at a time, as published
            hidden = model(pixel_values=picture[None], interpolate_pos_encoding=True).last_hidden_state
            features.append(torch.nn.functional.normalize(hidden[:, 0], dim=-1, p=2))
    return torch.cat(features)


def plain_consistency(features: torch.Tensor) -> float:
    total = 0.0
    for i in range(1, len(features)):
        before = max(0.0, cosine_similarity(features[i - 1 : i], features[i : i + 1]).item())
        first = max(0.0, cosine_similarity(features[:1], features[i : i + 1]).item())
        total += (before + first) / 2
    return total / (len(features) - 1)


def plain_lpips(weights: Path, first: Frames, second: Frames) -> float:
    """LPIPS from torchvision's listing of AlexNet's layers and the authors' constants."""
    from safetensors.torch import load_file

    features = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 11, 4, 2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2),
        torch.nn.Conv2d(64, 192, 5, 1, 2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2),
        torch.nn.Conv2d(192, 384, 3, 1, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(384, 256, 3, 1, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(256, 256, 3, 1, 1),
        torch.nn.ReLU(),
    )
    named = load_file(weights / "alexnet.safetensors")
    features.load_state_dict({name.removeprefix("features."): tensor for name, tensor in named.items()})
    head = torch.load(weights / "lpips_alex.pth", weights_only=True)
    found: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for frame in (first, second):
            x = torch.from_numpy(frame.astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)[None]
            shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
            x = (x - shift[:, None, None]) / scale[:, None, None]
            taps = []
            for index, layer in enumerate(features):
                x = layer(x)
                if index in (1, 4, 7, 9, 11):
                    taps.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
            found.append(taps)
        layers = [
            ((a - b) ** 2 * head[f"lin{index}.model.1.weight"]).sum(1).mean()
            for index, (a, b) in enumerate(zip(*found, strict=True))
        ]
    return float(sum(layers))
