"""A dataset TOML that is wrong is refused within a second, by sentences that name the file, the key and the remedy."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hostile_toml import CASES, DATASET, Case, special_files

from musubi_ext.cli import main
from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.checks.thresholds import load_thresholds
from musubi_ext.orbits.config import load_dataset_config

SECOND = 1.0


def refusal(path: Path) -> tuple[str, ...]:
    """The problems of a file, each of them checked to be one printable line that names it."""
    started = time.process_time()
    with pytest.raises(UserError) as raised:
        load_dataset_config(path, check_files=False)
    assert time.process_time() - started < SECOND
    for problem in raised.value.problems:
        assert problem.startswith(shown(path)), problem[:200]
        assert problem.isprintable(), problem[:200]
        assert len(problem) < 600 + len(str(path)), problem[:200]
    return raised.value.problems


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_file_is_refused_by_name(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "data.toml"
    path.write_bytes(case.content)
    problems = refusal(path)
    text = "\n".join(problems)
    assert all(words in text for words in case.words), text[:2000]
    assert case.problems in (None, len(problems)), text[:2000]


def test_what_is_no_file_of_text_is_refused_by_name(tmp_path: Path) -> None:
    for path, words in special_files(tmp_path).items():
        (problem,) = refusal(path)
        assert words in problem


@pytest.mark.parametrize("name", ["empty", "JSON", "NUL bytes", "deep lists", "10 MB", "resolution gigantic"])
def test_the_command_ends_with_2_and_no_traceback(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.toml"
    path.write_bytes(next(case.content for case in CASES if case.name == name))
    assert main(["data", "check", str(path)]) == 2
    told = capsys.readouterr().err
    assert "data.toml" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("name", ["NUL bytes", "latin-1", "BOM", "deep lists", "10 MB", "a line end in a key"])
def test_a_hostile_file_of_limits_is_refused_too(name: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_bytes(next(case.content for case in CASES if case.name == name))
    with pytest.raises(UserError, match=r"limits\.toml"):
        load_thresholds(path)


@pytest.mark.parametrize(
    "content",
    [
        DATASET.replace("\n", "\r\n"),
        DATASET.replace("\n", "\r"),
        "# [[[[ a comment ]]]]\n" + DATASET,
        DATASET.replace("clips", "[a] {b} 🐈"),
        DATASET + "fp_latent_window_size = -9\n",
        "".join(DATASET + f'cache_directory = "{index}"\n' for index in range(500)),
    ],
)
def test_unusual_files_that_are_right_are_read(content: str, tmp_path: Path) -> None:
    path = tmp_path / "data.TOML"
    path.write_bytes(content.encode())
    assert load_dataset_config(path, check_files=False).datasets[0].resolution == (64, 64)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b'{"video_path": "' + b"x" * 5000 + b'", "caption": "a"}']
)
def test_a_hostile_list_of_clips_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    listing, path = tmp_path / "list.jsonl", tmp_path / "data.toml"
    listing.write_bytes(content)
    path.write_text(f'[[datasets]]\nvideo_jsonl_file = "{listing}"\ncache_directory = "x"\nresolution = 64\n')
    with pytest.raises(UserError) as raised:
        load_dataset_config(path)
    assert all(problem.startswith(str(listing)) for problem in raised.value.problems)
