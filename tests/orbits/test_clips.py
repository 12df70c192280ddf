"""Reading clips: five containers, sizes, frame rates, windows, and files that must be refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hostile_corpus import webm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from musubi_ext.errors import UserError
from musubi_ext.orbits.buckets import bucket_sizes, choose_bucket
from musubi_ext.orbits.clips import ClipInfo, cover_crop, load_frames, probe, to_wan_fps
from musubi_ext.orbits.config import VideoDataset
from musubi_ext.orbits.decode.display import turn_of_angle
from musubi_ext.orbits.windows import frames_needed, windows
from musubi_ext.video import write_mp4

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines under load
ENCODERS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".gif": "gif"}


def grey_steps(count: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Frames (F, H, W, 3) whose brightness counts them: frame i is 8·i."""
    return np.stack([np.full((height, width, 3), 8 * index, np.uint8) for index in range(count)])


def write_clip(
    path: Path,
    frames: np.ndarray,
    fps: int = 16,
    *,
    codec: str = "",
    pixels: str = "",
    times: Sequence[int] = (),
    prepare: Callable[[Any], None] = lambda stream: None,
) -> Path:
    """Encode (F, H, W, 3) or, with alpha, (F, H, W, 4); `times` in ticks of 1/fps. Skips without the encoder."""
    codec = codec or ENCODERS[path.suffix]
    try:
        av.codec.Codec(codec, "w")
    except ValueError:  # libav's "unknown codec"
        pytest.skip(f"this libav has no encoder {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels or ("rgb8" if codec == "gif" else "yuv420p")
        prepare(stream)
        for index, frame in enumerate(frames):
            layout = "rgba" if frame.shape[2] == 4 else "rgb24"
            picture = av.VideoFrame.from_ndarray(frame, format=layout).reformat(format=stream.pix_fmt)
            picture.pts, picture.time_base = (times[index] if times else index), Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def as_upstream(path: Path) -> np.ndarray:
    """The frames as musubi-tuner's load_video reads them, at the clip's own size."""
    with av.open(str(path)) as container:
        return np.stack([np.array(frame.to_image()) for frame in container.decode(video=0)])


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


CODECS = {  # libav's name of the encoder: container, pixel format, name of the decoder, bits
    "libx264": (".mp4", "yuv420p", "h264", 8),
    "libx265": (".mp4", "yuv420p10le", "hevc", 10),
    "libvpx-vp9": (".webm", "yuv420p", "vp9", 8),
    "libsvtav1": (".mp4", "yuv420p10le", "av1", 10),
    "mpeg4": (".mp4", "yuv420p", "mpeg4", 8),
    "prores_ks": (".mov", "yuv422p10le", "prores", 10),
    "gif": (".gif", "rgb8", "gif", 8),
}


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_gives_upstreams_pixels(tmp_path: Path, codec: str) -> None:
    suffix, pixels, name, bits = CODECS[codec]
    path = write_clip(tmp_path / f"clip{suffix}", grey_steps(9, 128, 96), codec=codec, pixels=pixels)
    info = probe(path)
    assert (info.size, info.frames, info.bit_depth) == ((128, 96), 9, bits)
    assert name in info.codec  # AV1 is "libdav1d"
    assert (info.rotation, info.variable_rate, info.alpha) == (0, False, codec == "gif")
    np.testing.assert_array_equal(load_frames(path, info.size), as_upstream(path))


@pytest.mark.parametrize("size", [(63, 47), (65, 48), (64, 33)])
def test_odd_sizes_are_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "odd.webm", grey_steps(5, *size))
    assert probe(path).size == size
    np.testing.assert_array_equal(load_frames(path, size), as_upstream(path))


def test_alpha_is_dropped_as_upstream_does(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 4)).astype(np.uint8)
    path = write_clip(tmp_path / "see_through.mov", frames, codec="qtrle", pixels="argb")
    info = probe(path)
    assert info.alpha
    assert info.pixel_format == "argb"
    np.testing.assert_array_equal(load_frames(path, info.size), frames[..., :3])
    np.testing.assert_array_equal(load_frames(path, info.size), as_upstream(path))


def test_alpha_beside_a_vp9_stream_is_seen(tmp_path: Path) -> None:
    frames = np.full((3, 48, 64, 4), 128, np.uint8)
    assert probe(write_clip(tmp_path / "see_through.webm", frames, pixels="yuva420p")).alpha


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_clips_come_out_upright(tmp_path: Path, turn: int, mirrored: bool) -> None:
    stored = np.full((3, 48, 64, 3), 40, np.uint8)
    stored[:, :24, :32] = 220  # bright at the top left

    def prepare(stream: Any) -> None:
        stream.set_display_rotation(-90 * turn, hflip=mirrored)  # libav counts counterclockwise

    path = write_clip(tmp_path / "phone.mp4", stored, prepare=prepare)
    upright = np.rot90(stored, -turn, axes=(1, 2))
    upright = upright[:, :, ::-1] if mirrored else upright
    info = probe(path)
    assert info.size == (upright.shape[2], upright.shape[1])
    if not mirrored:
        assert info.rotation == 90 * turn
    frames = load_frames(path, info.size)
    assert frames.shape == upright.shape
    assert np.abs(frames.astype(int) - upright).mean() < 2
    if not turn and not mirrored:
        np.testing.assert_array_equal(frames, as_upstream(path))


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_photographs_say_it_in_exif(tmp_path: Path, orientation: int, turn: int) -> None:
    stored = np.full((48, 64, 3), 40, np.uint8)
    stored[:24, :32] = 220
    exif, file = Image.Exif(), BytesIO()
    exif[0x0112] = orientation  # EXIF 2.3, table 4
    Image.fromarray(stored).save(file, "jpeg", quality=95, exif=exif)
    path = tmp_path / "photographs.mkv"
    path.write_bytes(webm("V_MJPEG", 64, 48, [file.getvalue()] * 3))
    assert probe(path).rotation in (90 * turn, 0)  # libav reads EXIF from version 8 on
    info = probe(path)
    upright = np.rot90(stored, -info.rotation // 90)
    assert np.abs(load_frames(path, info.size)[0].astype(int) - upright).mean() < 3


@pytest.mark.parametrize("angle", [0, 90, -90, 180, -180, 89, 270])
def test_an_angle_alone_is_the_same_turn(angle: int) -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    turned = turn_of_angle(angle).upright(picture)
    np.testing.assert_array_equal(turned, np.rot90(picture, round(angle / 90)))
    with pytest.raises(ValueError, match="45 degrees"):
        turn_of_angle(45)


def test_a_slanted_clip_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "slanted.mp4", grey_steps(3), prepare=lambda stream: stream.set_display_rotation(30))
    assert "expected a rotation by quarter turns, found a display matrix of" in refusal(path)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
def test_a_variable_rate_is_seen_and_changes_no_choice_of_frames(tmp_path: Path, suffix: str) -> None:
    times = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 18, 19]
    path = write_clip(tmp_path / f"uneven{suffix}", grey_steps(12), fps=30, times=times)
    info = probe(path)
    assert info.variable_rate
    assert info.frames == 12
    assert info.duration == pytest.approx(20 / 30, abs=0.002)
    steps = load_frames(path, (64, 48), source_fps=30.0).mean(axis=(1, 2, 3))
    assert np.abs(steps - 8 * np.array(list(to_wan_fps(range(12), 30.0)))).max() < 4


@pytest.mark.parametrize("fps", [12, 16, 24, 30, 60])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_constant_rate_is_called_so(tmp_path: Path, suffix: str, fps: int) -> None:
    info = probe(write_clip(tmp_path / f"even{suffix}", grey_steps(14), fps=fps))
    assert not info.variable_rate  # a webm counts milliseconds: gaps of 16 and 17 at 60 a second
    assert info.duration == pytest.approx(14 / fps, abs=0.002)
    assert info.fps == pytest.approx(fps, rel=0.01)


def test_a_real_clip(sample_data: Path) -> None:
    path = sample_data / "train" / "cat.mp4"
    assert probe(path) == ClipInfo(180, 320, 51, 16.0, "h264", 0, False, 51 / 16, "yuv420p", 8, False)
    np.testing.assert_array_equal(load_frames(path, (180, 320)), as_upstream(path))


def test_a_clip_cut_short_is_refused_where_libav_reads_on(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.webm", grey_steps(20)).read_bytes()
    (tmp_path / "cut.webm").write_bytes(whole[: len(whole) - 40])
    assert "its segment ends at byte" in refusal(tmp_path / "cut.webm")
    with av.open(str(tmp_path / "cut.webm")) as container:
        assert sum(1 for _ in container.decode(video=0)) > 10


def test_sound_without_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "expected a video stream" in refusal(path)
