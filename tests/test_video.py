"""Videos and files on disk: exact where they promise to be, and never half written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musubi_ext.storage import sha256, write_json, write_text
from musubi_ext.video import Frames, read_comment, read_video, write_mp4


@pytest.fixture
def clip() -> Frames:
    """A bright square that crosses a smooth background, 9 frames of 64×48."""
    y, x = np.mgrid[:48, :64]
    frames = np.stack([np.stack([2 * x, 3 * y, x + y], -1)] * 9).astype(np.uint8)
    for index, frame in enumerate(frames):
        frame[16:32, 4 * index : 4 * index + 16] = (240, 60, 40)
    return frames


def test_a_video_comes_back_close_and_complete(tmp_path: Path, clip: Frames) -> None:
    write_mp4(tmp_path / "a.mp4", clip, 16)
    frames, fps = read_video(tmp_path / "a.mp4")
    assert frames.shape == clip.shape
    assert fps == pytest.approx(16)
    error = np.square(frames.astype(float) - clip).mean()
    assert 10 * np.log10(255**2 / error) > 28  # chroma is halved by yuv420p; luma is nearly exact


def test_the_same_frames_are_the_same_bytes(tmp_path: Path, clip: Frames) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, clip, 16, comment={"seed": 3})
    assert sha256(tmp_path / "a.mp4") == sha256(tmp_path / "b.mp4")


def test_the_comment_is_json_of_any_text(tmp_path: Path, clip: Frames) -> None:
    comment = {"prompt": 'a "red" car; Größe = 3\\4 \n 红色', "size": [64, 48], "pair": None}
    write_mp4(tmp_path / "a.mp4", clip, 8, comment=comment)
    assert read_comment(tmp_path / "a.mp4") == comment
    write_mp4(tmp_path / "b.mp4", clip, 8)
    assert read_comment(tmp_path / "b.mp4") == {}


@pytest.mark.parametrize("fps", [1, 8, 23.976, 29.97, 60])
def test_frame_rates_are_kept(tmp_path: Path, clip: Frames, fps: float) -> None:
    write_mp4(tmp_path / "a.mp4", clip, fps)
    assert read_video(tmp_path / "a.mp4")[1] == pytest.approx(fps, rel=1e-3)


def test_an_encoder_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ndim"):
        write_mp4(tmp_path / "a.mp4", np.zeros((2, 32, 32), np.uint8), 8)  # no colour axis
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")  # a lone surrogate has no UTF-8
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_json_is_strict_and_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ü": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"psnr": float("inf")})
    assert not (tmp_path / "b.json").exists()


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a").write_bytes(data)
    assert sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_what_a_signal_leaves_unfinished_is_swept_at_exit(tmp_path: Path) -> None:
    # as if a signal had struck after the file was begun and before `try` was entered
    left = tmp_path / ".file.0123abcd.txt"
    program = f"""
from pathlib import Path
from musubi_ext import storage
left = Path({str(left)!r})
storage._unfinished.add(left)
left.write_text("half")
raise SystemExit(130)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 130
    assert not left.exists()


def test_the_same_frames_give_the_same_bytes_whatever_memory_held_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (17, 8, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    digests = set()
    for _ in range(12):
        used = [rng.bytes(int(size)) for size in rng.integers(1_000, 200_000, 60)]
        del used  # x264 finds these bytes again where its lookahead reads memory that it has not written
        write_mp4(tmp_path / "video.mp4", texture, 16, comment={"n": 0})
        digests.add(sha256(tmp_path / "video.mp4"))
    assert len(digests) == 1
