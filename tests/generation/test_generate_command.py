"""`musubi-ext generate` without the shell around it: files whole or absent, mistakes all at once."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from PIL import Image

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.generation.command import add_arguments, run
from musubi_ext.storage import sha256
from musubi_ext.video import read_comment, read_video

SMALL = ("--size", "32x32", "--frames", "5", "--steps", "2", "--guidance", "1", "--guidance_2", "1")
PROMPT = ("--prompt", "a red car, camera circles right to left")


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_a_video_and_its_filmstrip(
    base: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, strip = tmp_path / "new" / "a.mp4", tmp_path / "a.png"
    args = parse("--first", picture, "--last", picture, *PROMPT, *SMALL, "--base", base, "--strip", strip, "-o", out)
    assert run(args) == 0
    frames, _ = read_video(out)
    assert frames.shape == (5, 32, 32, 3)
    assert read_comment(out)["request"]["last"]["name"] == "first.png"
    with Image.open(strip) as image:
        assert image.format == "PNG"
    assert str(out) in capsys.readouterr().out


def test_the_same_command_gives_the_same_bytes(base: Path, picture: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for out in outs:
        run(parse("--first", picture, *PROMPT, *SMALL, "--base", base, "--seed", 7, "-o", out))
    assert sha256(outs[0]) == sha256(outs[1])


def test_every_mistake_is_said_at_once_and_nothing_is_written(picture: Path, tmp_path: Path) -> None:
    bad, text, video = tmp_path / "no.png", tmp_path / "text.png", tmp_path / "out" / "a.avi"
    text.write_text("not an image")
    words = ("--first", text, "--last", bad, "--prompt", "x" * 10_000, "--size", "60x64", "--frames", 16, "--steps", 0)
    args = parse(
        *words, "--base", tmp_path / "base", "--pair", tmp_path / "pair", "-o", video, "--strip", picture / "a.png"
    )
    with pytest.raises(UserError) as caught:
        run(args)
    text_of_all = str(caught.value)
    outputs = ("a.avi", "first.png is not a directory")
    for part in ("base", "pair", *outputs, "10,000", "60x64", "nearest is 17", "steps", "text.png", "no.png"):
        assert part in text_of_all
    assert not video.parent.exists()


def test_dry_run_prints_the_plan_and_makes_nothing(
    base: Path, picture: Path, pair: AdapterPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pair.path.parent
    out = tmp_path / "a.mp4"
    assert run(parse("--first", picture, *PROMPT, "--base", base, "--pair", folder, "--dry-run", "-o", out)) == 0
    lines = (line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    plan = {words[0]: words[-1] for words in lines}
    assert plan["steps"].startswith("4 (2 by the high-noise expert, then 2")
    assert float(plan["strength_high"]) == 0.8
    assert not out.exists()


def test_registered_pairs_come_through_the_callers_resolver(
    base: Path, picture: Path, pair: AdapterPair, tmp_path: Path
) -> None:
    asked: list[str] = []

    def resolve(address: str) -> AdapterPair:
        asked.append(address)
        return pair

    out = tmp_path / "a.mp4"
    args = parse("--first", picture, *PROMPT, *SMALL, "--base", base, "--pair", "models:/pocket@champion", "-o", out)
    assert run(args, resolve) == 0
    assert asked == ["models:/pocket@champion"]
    assert read_comment(out)["versions"]["pair"]["name"] == pair.manifest["name"]
    with pytest.raises(UserError, match="models:/pocket@champion"):
        run(args)


def test_a_strength_without_a_pair_is_refused(base: Path, picture: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--strength_low: there is no pair"):
        run(parse("--first", picture, *PROMPT, "--base", base, "--strength_low", 0.5, "-o", tmp_path / "a.mp4"))


def test_a_pair_of_the_wrong_base_is_refused(
    picture: Path, foreign_pair: AdapterPair, base: Path, tmp_path: Path
) -> None:
    folder = foreign_pair.path.parent
    args = parse("--first", picture, *PROMPT, *SMALL, "--base", base, "--pair", folder, "-o", tmp_path / "a.mp4")
    with pytest.raises(UserError, match="boundary"):
        run(args)
    assert not (tmp_path / "a.mp4").exists()
