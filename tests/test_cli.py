"""The command line is frozen by its help texts; a mistake is named with the nearest right word and ends with 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from musubi_ext.cli import CLOSED_PIPE, main

SNAPSHOTS = Path(__file__).with_name("snapshots")
VERBS = [
    "",
    "demo",
    "data",
    "data fetch",
    "data render",
    "data caption",
    "data check",
    "data cache",
    "cache",
    "cache status",
    "cache prune",
    "train",
    "host",
    "host install",
    "host show",
    "doctor",
    "generate",
    "evaluate",
    "compare",
    "adapter",
    "adapter inspect",
    "adapter verify",
    "adapter convert",
    "client",
    "client submit",
    "client status",
    "client watch",
    "client get",
    "client cancel",
    "track",
    "track status",
    "track replay",
    "registry",
    "registry list",
    "registry show",
    "registry diff",
    "registry register",
    "registry promote",
    "registry approve",
    "registry rollback",
    "registry prune",
    "registry webhook",
    "registry webhook add",
    "registry webhook list",
    "registry webhook remove",
]


def help_of(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stopped:
        main([*verb.split(), "--help"])
    assert stopped.value.code == 0
    return re.sub(r"\s+", " ", capsys.readouterr().out).strip()  # Python versions wrap lines differently


@pytest.mark.parametrize("verb", VERBS)
def test_help_text_is_the_frozen_one(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(verb, monkeypatch, capsys)
    path = SNAPSHOTS / f"{verb.replace(' ', '_') or 'musubi-ext'}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace(" --", "\n--") + "\n", encoding="utf-8")
    frozen = re.sub(r"\s+", " ", path.read_text(encoding="utf-8")).strip()
    assert text == frozen, "a changed flag is a decision: UPDATE_SNAPSHOTS=1 pytest tests/test_cli.py"


def test_every_snapshot_belongs_to_a_verb() -> None:
    names = {f"{verb.replace(' ', '_') or 'musubi-ext'}.txt" for verb in VERBS}
    assert {path.name for path in SNAPSHOTS.glob("*.txt")} == names


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["generat"], "generat: unknown verb (did you mean generate?)"),
        (["data", "rendr"], "rendr: unknown verb (did you mean render?)"),
        (["registry", "rolback", "x"], "rolback: unknown verb (did you mean rollback?)"),
        (["data", "render", "--out", "x", "--cuont", "3"], "--cuont: unknown flag (did you mean --count?)"),
        (["generate", "--strength_hihg", "1"], "--strength_hihg: unknown flag (did you mean --strength_high?)"),
        (["evaluate", "x", "-o", "r.json", "-t", "y"], "-t: unknown flag"),
        (["data", "render", "--cou", "3"], "--cou: unknown flag (did you mean --count?)"),
        (["adapter", "inspect", "a", "b"], "b: belongs to no flag"),
        (["data", "render"], "--out"),
        ([], "VERB"),
    ],
)
def test_unknown_words_are_named_with_the_nearest(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert out == ""
    assert all(line.startswith("error: ") for line in err.splitlines())


def test_every_mistake_is_a_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clips"
    words = ["data", "render", "--out", str(out), "--size", "60x64", "--frames", "16", "--count", "0"]
    assert main(words) == 2
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["--size", "--frames", "--count"]
    assert not out.exists()


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("musubi_ext.orbits.render.write_dataset", stop)
    assert main(["data", "render", "--out", str(tmp_path / "clips")]) == 130


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("musubi-ext 0.")


def test_render_then_evaluate_and_a_bad_clip_never_stops_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, results = tmp_path / "clips", tmp_path / "results.json"
    render = ["data", "render", "--out", str(clips), "--count", "2", "--frames", "5", "--family", "heldout"]
    assert main([*render, "--dry-run"]) == 0
    assert not clips.exists()
    assert main(render) == 0
    evaluate = ["evaluate", str(clips), "--truth", str(clips), "-o", str(results)]
    assert main([*evaluate, "--dry-run"]) == 0
    assert not results.exists()
    assert main([*evaluate, "--metrics", "psnr", "ssim"]) == 0
    (clips / "torn.mp4").write_bytes(b"not a video")
    capsys.readouterr()
    assert main([*evaluate, "--metrics", "psnr"]) == 1
    out, err = capsys.readouterr()
    assert "torn.mp4" in err
    assert "2 of 3 clips" in out

    from musubi_ext.evaluation.result import read_results

    measured = read_results(results)
    assert "torn.mp4" in str(measured.pop("torn.mp4")["psnr"].unavailable)
    assert len(measured) == 2
    assert all((clip["psnr"].value or 0) > 30 for clip in measured.values())


def test_evaluate_refuses_a_missing_folder_and_an_unknown_metric_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path / "none"), "-o", "r.json", "--metrics", "psrn"]) == 2
    err = capsys.readouterr().err
    assert "expected a folder of clips" in err
    assert "did you mean psnr?" in err


def test_cache_dry_run_encodes_nothing(tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, caches, config = tmp_path / "clips", tmp_path / "cache", tmp_path / "set.toml"
    assert main(["data", "render", "--out", str(clips), "--count", "2"]) == 0
    config.write_text(
        '[general]\nresolution = [64, 64]\ncaption_extension = ".txt"\n[[datasets]]\n'
        f'video_directory = "{clips}"\ncache_directory = "{caches}"\ntarget_frames = [17]\n'
    )
    cache = ["data", "cache", "--dataset_config", str(config), "--base", str(tiny_pipeline)]
    assert main([*cache, "--dry-run"]) == 0
    assert "2 clips" in capsys.readouterr().out
    assert not caches.exists()
    assert main(cache) == 0
    assert len(list(caches.glob("*.safetensors"))) == 4


def test_a_reader_that_leaves_early_sees_no_traceback(tmp_path: Path) -> None:
    render = f"data render --out {tmp_path / 'clips'} --count 2 --dry-run"
    words = [sys.executable, "-u", "-m", "musubi_ext.cli", *render.split()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == CLOSED_PIPE
