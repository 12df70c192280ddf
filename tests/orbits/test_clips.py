"""Reading clips: five containers, sizes, frame rates, windows, and files that must be refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musubi_ext.errors import UserError
from musubi_ext.orbits.buckets import bucket_sizes, choose_bucket
from musubi_ext.orbits.clips import cover_crop, load_frames, probe, to_wan_fps
from musubi_ext.orbits.config import VideoDataset
from musubi_ext.orbits.windows import frames_needed, windows
from musubi_ext.video import write_mp4

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines under load
ENCODERS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".gif": "gif"}


def grey_steps(count: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Frames (F, H, W, 3) whose brightness counts them: frame i is 8·i."""
    return np.stack([np.full((height, width, 3), 8 * index, np.uint8) for index in range(count)])


def write_clip(path: Path, frames: np.ndarray, fps: int = 16) -> Path:
    codec = ENCODERS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=stream.pix_fmt))
            )
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ENCODERS)
def test_every_container_is_probed_and_decoded(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", grey_steps(20))
    info = probe(path)
    assert (info.width, info.height, info.frames) == (64, 48, 20)
    assert info.fps == pytest.approx(16, rel=0.05)  # gif keeps hundredths of a second
    frames = load_frames(path, (32, 32), limit=17)
    assert frames.shape == (17, 32, 32, 3)
    assert frames.dtype == np.uint8
    steps = frames.mean(axis=(1, 2, 3))
    tolerance = 20 if suffix == ".gif" else 4  # eight levels of red and green in a gif's fixed palette
    assert np.abs(steps - 8 * np.arange(17)).max() < tolerance


def test_thirty_a_second_becomes_sixteen() -> None:
    kept = list(to_wan_fps(range(30), 30.0))
    assert len(kept) == 16
    assert kept[:5] == [0, 2, 4, 6, 8]
    assert list(to_wan_fps(range(9), 12.0)) == list(range(9))  # slower clips keep every frame
    assert list(to_wan_fps(range(9), None)) == list(range(9))


@PATIENT
@given(st.floats(16, 240), st.integers(1, 300))
def test_dropping_keeps_the_first_frame_the_order_and_the_rate(fps: float, count: int) -> None:
    kept = list(to_wan_fps(range(count), fps))
    assert kept[0] == 0
    assert kept == sorted(set(kept))
    assert abs(len(kept) - count * 16 / fps) <= 1 + 1e-6


def test_source_fps_is_used_when_decoding(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "fast.mp4", grey_steps(30), fps=30)
    steps = load_frames(path, (64, 48), limit=5, source_fps=30.0).mean(axis=(1, 2, 3))
    assert np.abs(steps - 8 * np.array([0, 2, 4, 6, 8])).max() < 4


@PATIENT
@given(st.integers(16, 200), st.integers(16, 200), st.sampled_from([(32, 32), (48, 80), (96, 16)]))
def test_cover_crop_fills_the_size_and_keeps_the_centre(width: int, height: int, size: tuple[int, int]) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, width // 2 :] = 255
    cropped = cover_crop(frame, size)
    assert cropped.shape == (size[1], size[0], 3)
    edge = int((cropped[size[1] // 2, :, 0] < 128).sum())
    scale = max(size[0] / width, size[1] / height)  # an odd width puts the edge half a source pixel off
    assert abs(edge - size[0] / 2) <= 1.5 + scale


def test_portrait_clips_go_to_a_portrait_bucket() -> None:
    assert bucket_sizes((64, 64)) == [(32, 128), (48, 80), (64, 64), (80, 48), (128, 32)]
    assert choose_bucket((180, 320), (64, 64), enable_bucket=True, no_upscale=False) == (48, 80)
    assert choose_bucket((180, 320), (64, 64), enable_bucket=False, no_upscale=False) == (64, 64)
    assert choose_bucket((50, 60), (64, 64), enable_bucket=True, no_upscale=True) == (48, 48)
    assert choose_bucket((1080, 1920), (480, 832), enable_bucket=True, no_upscale=False) == (480, 832)


@PATIENT
@given(st.tuples(st.integers(16, 4096), st.integers(16, 4096)), st.tuples(st.integers(16, 1280), st.integers(16, 1280)))
def test_buckets_divide_by_16_and_keep_to_the_area(source: tuple[int, int], resolution: tuple[int, int]) -> None:
    width, height = choose_bucket(source, resolution, enable_bucket=True, no_upscale=False)
    assert width % 16 == height % 16 == 0
    assert 0 < width * height <= resolution[0] * resolution[1]


def dataset(extraction: str, *targets: int, **options: int) -> VideoDataset:
    return VideoDataset(Path("cache"), target_frames=targets, frame_extraction=extraction, **options)


def test_windows_are_upstreams() -> None:
    assert windows(dataset("head", 1, 17), 40) == [(0, 1), (0, 17)]
    assert windows(dataset("chunk", 13), 40) == [(0, 13), (13, 13), (26, 13)]
    assert windows(dataset("slide", 25, frame_stride=10), 40) == [(0, 25), (10, 25)]
    assert windows(dataset("uniform", 25, frame_sample=4), 40) == [(0, 25), (5, 25), (10, 25), (15, 25)]
    assert windows(dataset("full", 1, max_frames=33), 40) == [(0, 33)]
    assert windows(dataset("full", 1), 20) == [(0, 17)]
    assert windows(dataset("head", 17), 16) == []
    assert windows(dataset("uniform", 17, frame_sample=9), 18) == [(0, 17), (1, 17)]  # no window twice


@PATIENT
@given(st.sampled_from(["head", "chunk", "slide", "uniform", "full"]), st.integers(1, 100), st.integers(1, 9))
def test_windows_lie_inside_the_clip_and_what_is_decoded(extraction: str, frames: int, count: int) -> None:
    found = dataset(extraction, 5, 17, frame_stride=count, frame_sample=count)
    limit = frames_needed(found)
    decoded = frames if limit is None else min(frames, limit)
    assert windows(found, decoded) == windows(found, frames)
    assert all(start + length <= decoded and length % 4 == 1 for start, length in windows(found, frames))


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        (probe(path), load_frames(path, (32, 32)))
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_files_that_are_no_clips_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    write_mp4(tmp_path / "good.mp4", grey_steps(20), 16)
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name in ("text.mp4", "empty.mp4", "cut.mp4"):
        assert "expected a readable" in refusal(tmp_path / name)


def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path) -> None:
    write_mp4(tmp_path / "secret.mp4", grey_steps(5), 16)
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mkv").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/secret.mp4'\n")
    for name in ("list.mp4", "concat.mkv"):
        assert "expected a readable" in refusal(tmp_path / name)


def test_sound_without_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "expected a video stream" in refusal(path)
