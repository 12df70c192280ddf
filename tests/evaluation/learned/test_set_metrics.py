"""The Fréchet distance in closed form, and FID and FVD of folders of videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from musubi_ext.errors import UserError
from musubi_ext.evaluation.features import ModelSource
from musubi_ext.evaluation.features.frechet import Moments, frechet_distance
from musubi_ext.evaluation.features.set_metrics import SetResult
from musubi_ext.evaluation.features.sets import evaluate_sets
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.video import Frames, read_video, write_mp4

Matrix = NDArray[np.float64]
Video = Callable[..., Frames]


def gaussian(mean: Matrix, covariance: Matrix) -> Moments:
    """Moments of samples that have exactly this mean and covariance."""
    drawn = np.random.default_rng(3).normal(size=(3 * len(mean) + 2, len(mean)))
    drawn -= drawn.mean(axis=0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(drawn.T))).T)
    moments = Moments()
    moments.add(white @ np.linalg.cholesky(covariance).T + mean)
    return moments


def moments_of(features: Matrix) -> Moments:
    moments = Moments()
    moments.add(features)
    return moments


def plain_distance(a: Matrix, b: Matrix) -> float:
    """Equation 6 of Heusel et al. 2017, as written."""
    product = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * product.real))


class TestFrechet:
    def test_on_a_line(self) -> None:
        first, second = gaussian(np.array([1.0]), np.array([[9.0]])), gaussian(np.array([5.0]), np.array([[1.0]]))
        assert frechet_distance(first, second) == pytest.approx((1 - 5) ** 2 + (3 - 1) ** 2)

    def test_shifted_by_a_vector(self) -> None:
        covariance = np.array([[2.0, 0.6, 0.1], [0.6, 1.0, 0.3], [0.1, 0.3, 0.5]])
        first, second = gaussian(np.zeros(3), covariance), gaussian(np.array([1.0, -2.0, 2.0]), covariance)
        assert frechet_distance(first, second) == pytest.approx(9)

    def test_axes_scaled_one_by_one(self) -> None:
        a, b = np.array([1.0, 4.0, 25.0]), np.array([9.0, 16.0, 1.0])
        distance = frechet_distance(gaussian(np.zeros(3), np.diag(a)), gaussian(np.zeros(3), np.diag(b)))
        assert distance == pytest.approx(((np.sqrt(a) - np.sqrt(b)) ** 2).sum())

    def test_covariances_that_do_not_commute(self) -> None:
        a, b = np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
        # tr M^½ = (tr M + 2 √det M)^½ for a 2×2 matrix with positive eigenvalues
        shared = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
        distance = frechet_distance(gaussian(np.zeros(2), a), gaussian(np.zeros(2), b))
        assert distance == pytest.approx(np.trace(a) + np.trace(b) - 2 * shared)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(2, 7))
    def test_as_written(self, seed: int, dimensions: int) -> None:
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(2, dimensions, dimensions))
        a, b = rng.normal(size=(40, dimensions)) @ mix[0], rng.normal(size=(60, dimensions)) @ mix[1] + rng.normal()
        distance = frechet_distance(moments_of(a), moments_of(b))
        assert distance == pytest.approx(plain_distance(a, b), rel=1e-6, abs=1e-8)
        assert distance == pytest.approx(frechet_distance(moments_of(b), moments_of(a)), rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize("count", [2, 5, 300])
    def test_a_set_and_itself(self, count: int) -> None:
        features = np.random.default_rng(count).normal(size=(count, 64)) * 7 + 3
        assert frechet_distance(moments_of(features), moments_of(features)) == pytest.approx(0, abs=1e-9)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
    def test_batches_add_up(self, sizes: list[int], seed: int) -> None:
        features = np.random.default_rng(seed).normal(size=(sum(sizes) + 1, 3)) + 1e6
        moments = Moments()
        start = 0
        for size in [*sizes, 1]:
            moments.add(features[start : start + size])
            start += size
        assert moments.count == len(features)
        np.testing.assert_allclose(moments.mean, features.mean(axis=0))
        np.testing.assert_allclose(moments.covariance, np.cov(features.T), rtol=1e-6, atol=1e-9)

    def test_one_sample_has_no_covariance(self) -> None:
        with pytest.raises(ValueError, match="two samples, got 1"):
            frechet_distance(moments_of(np.ones((1, 3))), moments_of(np.eye(3)))

    def test_features_of_two_networks(self) -> None:
        with pytest.raises(ValueError, match="cannot be compared"):
            frechet_distance(moments_of(np.eye(3)), moments_of(np.eye(4)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, video: Video) -> tuple[Path, Path]:
    """Two folders of three videos."""
    root = tmp_path_factory.mktemp("sets")
    for side, seed in (("generated", 10), ("reference", 50)):
        for index in range(3):
            write_mp4(root / side / f"{index}.mp4", video(20, seed=seed + index), 16)
    (root / "generated" / "notes.txt").write_text("no video")
    return root / "generated", root / "reference"


class TestSets:
    def test_a_folder_and_itself(self, folders: tuple[Path, Path], models: ModelSource) -> None:
        results = evaluate_sets(folders[0], folders[0], models=models)
        assert list(results) == ["fid", "fvd"]
        assert [results[name].value for name in results] == pytest.approx([0, 0], abs=1e-9)

    def test_equals_the_definition(self, folders: tuple[Path, Path], models: ModelSource) -> None:
        sampled = [
            [read_video(path)[0][np.linspace(0, 19, 16, dtype=int)] for path in sorted(folder.glob("*.mp4"))]
            for folder in folders
        ]
        pictures = [
            np.concatenate([models.inception(frames) for frames in side]).astype(np.float64) for side in sampled
        ]
        results = evaluate_sets(*folders, models=models)
        assert results["fid"].value == pytest.approx(plain_distance(*pictures), rel=1e-5)
        assert results["fid"].videos == (3, 3)
        assert results["fid"].samples == (48, 48)
        assert results["fvd"].samples == (3, 3)
        assert results["fvd"].value is not None
        assert results["fvd"].value > 0

    def test_frames_and_files_together(self, folders: tuple[Path, Path], models: ModelSource) -> None:
        paths = sorted(folders[0].glob("*.mp4"))
        decoded = [read_video(paths[0])[0], *paths[1:]]
        assert evaluate_sets(decoded, folders[1], models=models) == evaluate_sets(*folders, models=models)

    def test_fvd_sees_the_order_of_frames_and_fid_does_not(self, models: ModelSource) -> None:
        ramps = [np.arange(16, dtype=np.uint8)[:, None, None, None] * step for step in (3, 5, 6, 8)]
        smooth = [np.broadcast_to(ramp, (16, 32, 32, 3)) for ramp in ramps]
        order = np.random.default_rng(0).permutation(16)
        shuffled = [frames[order] for frames in smooth]
        results = evaluate_sets(smooth, shuffled, models=models)
        assert results["fid"].value == pytest.approx(0, abs=1e-6)
        assert results["fvd"].value is not None
        assert results["fvd"].value > 1e-4

    def test_few_samples_are_said_to_be_few(self, folders: tuple[Path, Path], models: ModelSource) -> None:
        results = evaluate_sets(*folders, models=models)
        assert results["fvd"].warning.startswith("3 and 3 videos for 4 features: the covariances are singular")
        assert results["fid"].warning == ""  # 48 frames, six features

    def test_backend_and_licence(self, folders: tuple[Path, Path], models: ModelSource) -> None:
        result = evaluate_sets(*folders, models=models, metrics=["fid"])["fid"]
        assert "inception-2015-12-05.pt sha256 " in result.backend
        assert result.licence == "not stated with the file, which the user named"

    def test_a_network_that_was_not_named_costs_its_metric_only(
        self, folders: tuple[Path, Path], models: ModelSource
    ) -> None:
        results = evaluate_sets(*folders, models=replace(models, i3d_file=None))
        assert results["fvd"].value is None
        assert "i3d: no file was named" in (results["fvd"].unavailable or "")
        assert results["fid"].value is not None

    def test_features_that_are_no_numbers(
        self, folders: tuple[Path, Path], models: ModelSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise UnavailableError("the network's features are not finite numbers")

        from musubi_ext.evaluation.features.sets import SET_METRICS

        monkeypatch.setitem(SET_METRICS, "fid", replace(SET_METRICS["fid"], embed=refuse))
        assert (
            evaluate_sets(*folders, models=models)["fid"].unavailable == "the network's features are not finite numbers"
        )

    def test_every_bad_video_is_named(
        self, folders: tuple[Path, Path], tmp_path: Path, models: ModelSource, video: Video
    ) -> None:
        for index in range(3):
            write_mp4(tmp_path / f"{index}.mp4", video(5), 16)
        (tmp_path / "1.mp4").write_bytes(b"no video")
        whole = (tmp_path / "2.mp4").read_bytes()
        (tmp_path / "2.mp4").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError) as refused:
            evaluate_sets(tmp_path, folders[1], models=models)
        assert len(refused.value.problems) == 2
        assert str(tmp_path / "1.mp4") in refused.value.problems[0]
        assert str(tmp_path / "2.mp4") in refused.value.problems[1]

    def test_too_few_videos(self, folders: tuple[Path, Path], tmp_path: Path, models: ModelSource) -> None:
        with pytest.raises(UserError, match=r"reference: .*at least two videos .*, found 0"):
            evaluate_sets(folders[0], tmp_path, models=models)
        with pytest.raises(UserError, match="expected a folder of videos"):
            evaluate_sets(tmp_path / "nowhere", folders[0], models=models)

    def test_unknown_metrics(self, folders: tuple[Path, Path], models: ModelSource) -> None:
        with pytest.raises(UserError, match=r"'fit' is not a metric of sets \(did you mean fid\?\)"):
            evaluate_sets(*folders, models=models, metrics=["fit"])

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_result_is_finite_or_has_a_reason(self, value: float) -> None:
        with pytest.raises(ValueError, match="finite"):
            SetResult(value, "1", (2, 2), (2, 2), "torch", "")
        with pytest.raises(ValueError, match="either a value or a reason"):
            SetResult(None, "1", (2, 2), (2, 2), "torch", "")
