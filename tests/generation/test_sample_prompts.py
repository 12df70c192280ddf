"""Upstream's sample-prompt files: the three forms read alike, and every mistake named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from musubi_ext.errors import UserError
from musubi_ext.generation.sample_prompts import SamplePrompt, read_sample_prompts

FLAGS = "--w 64 --h 48 --f 17 --d 7 --s 6 --fs 5.5 --g 6.0 --l 3.5 --n grey, blurred --i {image} --ei {image}"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(UserError) as raised:
        read_sample_prompts(path)
    return [problem.removeprefix(f"{path} ") for problem in raised.value.problems]


def expected(picture: Path) -> SamplePrompt:
    return SamplePrompt("a red car", picture, picture, 64, 48, 17, 7, 6, 5.5, 3.5, "grey, blurred")


def test_a_line_of_text(tmp_path: Path, picture: Path) -> None:
    line = f"a red car {FLAGS.format(image=picture)}"
    path = write(tmp_path, "prompts.txt", f"# comment\n\n{line}\nplain --i {picture}\n")
    assert read_sample_prompts(path) == (expected(picture), SamplePrompt("plain", picture))


def test_toml_and_json_say_the_same(tmp_path: Path, picture: Path) -> None:
    shared = {"width": 64, "height": 48, "frame_count": 17, "image_path": str(picture)}
    own = {"prompt": "a red car", "seed": 7, "sample_steps": 6, "discrete_flow_shift": 5.5, "cfg_scale": 3.5}
    own |= {"negative_prompt": "grey, blurred", "end_image_path": str(picture), "guidance_scale": 6.0}
    tables = [f"{key} = {json.dumps(value)}" for key, value in shared.items()]
    subset = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
    toml = write(tmp_path, "a.toml", "\n".join(["[prompt]", *tables, "[[prompt.subset]]", *subset]))
    text = write(tmp_path, "a.json", json.dumps([shared | own, f"a red car {FLAGS.format(image=picture)}"]))
    assert read_sample_prompts(toml) == (expected(picture),)
    assert read_sample_prompts(text) == (expected(picture), expected(picture))


def test_defaults_are_upstream_s_and_the_seed_is_fixed(tmp_path: Path, picture: Path) -> None:
    (prompt,) = read_sample_prompts(write(tmp_path, "a.txt", f"car --i {picture}"))
    assert (prompt.width, prompt.height, prompt.frames, prompt.steps, prompt.shift) == (256, 256, 1, 20, 14.5)
    assert (prompt.seed, prompt.cfg, prompt.negative_prompt, prompt.end_image) == (0, None, None, None)


def test_images_are_found_from_the_working_directory(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "a.txt", f"car --i {picture.name}")
    monkeypatch.chdir(picture.parent)
    assert read_sample_prompts(path)[0].image == Path(picture.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert problems(path) == [f"line 1 --i {picture.name}: no such file (give a PNG, JPEG or WebP file)"]


def test_every_mistake_of_a_text_file_at_once(tmp_path: Path, picture: Path) -> None:
    lines = [
        f"one --i {picture} --w 60px --f 18 --s 0",
        "two --w 64",
        f"three --i {picture} --cn clip.mp4 --q 3 --w 64 --w 80",
        f"four --i {picture} --ei {picture} --l 0.5",
        f" --i {picture}",
    ]
    found = problems(write(tmp_path, "a.txt", "# five prompts\n" + "\n".join(lines)))
    assert found == [
        "line 4 --cn: not for Wan2.2 image-to-video (leave it out)",
        "line 4 --q: unknown (expected one of --w, --h, --f, --d, --s, --fs, --l, --n, --i, --ei, --g)",
        "line 4 --w: given twice, expected once",
        "line 2 --w, --h: expected width and height in pixels, found ('60px', 256) (for example 64x64)",
        "line 2 --f: expected 4n+1, found 18 (the nearest is 17)",
        "line 2 --s: expected a whole number from 1 to 1000, found 0",
        "line 3 --i: expected the first frame's file, found None",
        "line 5 --f: a first and a last frame need at least 5 frames, found 1 (the nearest is 5)",
        "line 5 --l: expected 1 to 30, found 0.5 (guidance of the high-noise expert; 1 is none)",
        "line 6 --i: expected the first frame's file, found None",  # upstream takes the flag for the prompt
    ]


def test_every_mistake_of_a_table_at_once(tmp_path: Path, picture: Path) -> None:
    text = "[prompt]\nwidth = 64\n\n[[prompt.subset]]\nwidth = 80\nhieght = 64\n"
    text += f'[[prompt.subset]]\nimage_path = "{picture}"'
    assert problems(write(tmp_path, "a.toml", text)) == [
        "line 4 width: stands in [prompt] too, expected it in one of the two",
        "line 4 hieght: unknown (expected one of width, height, frame_count, seed, sample_steps, discrete_flow_shift,"
        " cfg_scale, negative_prompt, image_path, end_image_path, prompt, guidance_scale)",
        "line 4 image_path: expected the first frame's file, found None",
        "line 7 prompt: is empty (say what is seen and how the camera moves)",
    ]
    assert problems(write(tmp_path, "a.json", '[3, {"prompt": "a", "image_path": 1, "one_frame": ""}]')) == [
        "prompt 1: expected a table or a line of text, found 3",
        "prompt 2 one_frame: not for Wan2.2 image-to-video (leave it out)",
        "prompt 2 image_path: expected the first frame's file, found 1",
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "", "expected sample prompts in a .txt, .toml or .json file"),
        ("a.txt", "# nothing\n", "expected at least one prompt, found none"),
        ("a.toml", "prompt = ", "not valid TOML"),
        ("a.toml", "[prompt]\nwidth = 64", "a [[prompt.subset]] table for each prompt, found none"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", "{}", "expected a list of prompts, found dict"),
        ("a.json", "[]", "expected at least one prompt, found none"),
    ],
)
def test_files_that_are_no_prompts(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(UserError, match=r".") as raised:
        read_sample_prompts(write(tmp_path, name, text))
    assert said in str(raised.value)


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no readable file"):
        read_sample_prompts(tmp_path / "absent.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="expected UTF-8"):
        read_sample_prompts(tmp_path / "a.txt")


def test_a_negative_prompt_needs_guidance(picture: Path) -> None:
    prompt = SamplePrompt("car", picture, frames=5, negative_prompt="blurred")
    assert prompt.request(cfg=1.0, fps=8.0).negative_prompt == ""
    guided = prompt.request(cfg=3.5, fps=8.0)
    assert (guided.negative_prompt, guided.guidance, guided.guidance_2) == ("blurred", 3.5, 3.5)
