"""The dataset TOML: what is read, and that every mistake is named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musubi_ext.errors import UserError
from musubi_ext.orbits.config import OrbitOptions, VideoDataset, load_dataset_config
from musubi_ext.orbits.schema import ORBIT, VIDEO

REPOSITORY = Path(__file__).parents[2]


def write_toml(folder: Path, text: str) -> Path:
    path = folder / "data.toml"
    path.write_text(text, encoding="utf-8")
    return path


def clip_folder(folder: Path, *names: str, caption: str = "camera circles right to left") -> Path:
    """Empty files stand for clips: this module never decodes."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
        (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return folder


def mistakes(path: Path, **options: bool) -> tuple[str, ...]:
    with pytest.raises(UserError) as raised:
        load_dataset_config(path, **options)
    return raised.value.problems


def only_mistake(path: Path, **options: bool) -> str:
    found = mistakes(path, **options)
    assert len(found) == 1, found
    return found[0]


def test_defaults_are_upstreams_and_general_is_inherited(tmp_path: Path) -> None:
    clips = clip_folder(tmp_path / "clips", "a.mp4", "b.GIF")
    path = write_toml(
        tmp_path,
        f"""
        [general]
        resolution = 64
        caption_extension = ".txt"
        batch_size = 4
        [[datasets]]
        video_directory = "{clips}"
        batch_size = 2
        """,
    )
    config = load_dataset_config(path)
    assert config.datasets == (VideoDataset(clips, clips, resolution=(64, 64), caption_extension=".txt", batch_size=2),)
    assert config.datasets[0].target_frames == (1,)
    assert config.orbit == OrbitOptions("first", 0.0, False)
    assert [clip.path.name for clip in config.datasets[0].clips()] == ["a.mp4", "b.GIF"]


def test_five_mistakes_are_five_lines_naming_file_and_key(tmp_path: Path) -> None:
    path = write_toml(
        tmp_path,
        """
        [general]
        resolutoin = [64, 64]
        batch_size = 0
        [[datasets]]
        video_directory = "clips"
        caption_extension = ".txt"
        target_frames = [16]
        source_fps = 30
        [orbit]
        holdout = 0.9
        """,
    )
    found = mistakes(path)
    assert len(found) == 5
    assert all(line.startswith(str(path)) for line in found)
    text = "\n".join(found)
    assert "resolutoin: unknown key (nearest known key: resolution)" in text
    assert "batch_size: expected an integer from 1 to 1000000, found 0" in text
    assert "for 16: 13 or 17" in text
    assert "30.0" in text
    assert "[orbit] holdout: expected a share of the clips, 0 to 0.5, found 0.9" in text


def test_image_data_sets_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = write_toml(tmp_path, '[[datasets]]\nimage_directory = "pictures"\ncaption_extension = ".txt"')
    assert "no camera motion to learn" in only_mistake(path)


def test_misplaced_key_is_sent_to_its_table(tmp_path: Path) -> None:
    path = write_toml(
        tmp_path,
        '[general]\ntarget_frames = [17]\n[[datasets]]\nvideo_directory = "x"\ncaption_extension = ".txt"',
    )
    assert "move it to [[datasets]]" in only_mistake(path)


def test_two_data_sets_need_two_cache_folders(tmp_path: Path) -> None:
    clips = clip_folder(tmp_path / "clips", "a.mp4")
    table = f'[[datasets]]\nvideo_directory = "{clips}"\ncaption_extension = ".txt"\nresolution = [64, 64]\n'
    message = only_mistake(write_toml(tmp_path, table + table + f'cache_directory = "{clips}/../clips"'))
    assert "[[datasets]] 1 cache_directory" in message
    assert "table 0" in message


def test_size_must_divide_by_16_unless_bucketed(tmp_path: Path) -> None:
    table = '[[datasets]]\nvideo_directory = "x"\ncaption_extension = ".txt"\nresolution = [180, 320]\n'
    message = only_mistake(write_toml(tmp_path, table), check_files=False)
    assert "divisible by 16" in message
    assert "use [176, 320]" in message
    bucketed = load_dataset_config(write_toml(tmp_path, table + "enable_bucket = true"), check_files=False)
    assert bucketed.datasets[0].resolution == (180, 320)


def test_last_frame_needs_more_than_one_frame(tmp_path: Path) -> None:
    table = '[[datasets]]\nvideo_directory = "x"\ncaption_extension = ".txt"\n[orbit]\ncondition = "first_last"'
    assert "needs 5 frames or more" in only_mistake(write_toml(tmp_path, table), check_files=False)


def test_files_missing_and_wrong_are_all_named(tmp_path: Path) -> None:
    clips = clip_folder(tmp_path / "clips", "a.mp4", "a.mov", "blank.mp4", "latin.mp4", "lonely.mp4", "old.avi")
    (clips / "lonely.txt").unlink()
    (clips / "blank.txt").write_text(" \n")
    (clips / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (clips / ".hidden.mp4").touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    tables = "\n".join(f'[[datasets]]\nvideo_directory = "{folder}"' for folder in (clips, empty, tmp_path / "nowhere"))
    found = mistakes(write_toml(tmp_path, f'[general]\ncaption_extension = ".txt"\nresolution = 64\n{tables}'))
    expected = {
        str(clips / "old.avi"): "container is not read",
        str(clips / "a.mp4"): "same name",
        str(clips / "lonely.mp4"): "expected its caption in lonely.txt",
        str(clips / "blank.txt"): "empty file",
        str(clips / "latin.txt"): "0xe9",
        str(empty): "found none",
        str(tmp_path / "nowhere"): "found nothing",
    }
    assert len(found) == len(expected)
    for where, what in expected.items():
        assert any(line.startswith(f"{where}: ") and what in line for line in found), (where, found)


def test_a_thousand_missing_captions_do_not_fill_the_screen(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for index in range(50):
        (clips / f"{index}.mp4").touch()
    text = f'[[datasets]]\nvideo_directory = "{clips}"\ncaption_extension = ".txt"\nresolution = 64'
    found = mistakes(write_toml(tmp_path, text))
    assert len(found) == 11
    assert "40 more" in found[-1]


def test_jsonl_lists_are_read_and_their_lines_named(tmp_path: Path) -> None:
    clips = clip_folder(tmp_path / "clips", "a.mp4", "b.mp4")
    listing = tmp_path / "list.jsonl"
    listing.write_text("".join(f'{{"video_path": "{clips / name}", "caption": "c"}}\n' for name in ("b.mp4", "a.mp4")))
    text = f'[[datasets]]\nvideo_jsonl_file = "{listing}"\ncache_directory = "{tmp_path}/cache"\nresolution = 64'
    path = write_toml(tmp_path, text)
    assert [clip.stem for clip in load_dataset_config(path).datasets[0].clips()] == ["a", "b"]
    listing.write_text('{"video_path": "gone.mp4", "caption": "c"}\n{"caption": 3}\nnot json\n')
    found = mistakes(path)
    assert [line.split(":")[0].rsplit(" ", 1)[1] for line in found] == ["1", "2", "3"]


@pytest.mark.parametrize("text", ["[general", "a = ", "= 3", "\x00", "[[datasets]\n", 'a = "'])
def test_broken_toml_names_the_file(tmp_path: Path, text: str) -> None:
    path = write_toml(tmp_path, text)
    assert str(path) in only_mistake(path)


def test_absent_file(tmp_path: Path) -> None:
    assert "nope.toml" in only_mistake(tmp_path / "nope.toml")


@pytest.mark.parametrize("text", ["", "datasets = 3", "datasets = []", "general = 1", "orbit = 1", "[dataset]"])
def test_wrong_shapes_of_document(tmp_path: Path, text: str) -> None:
    assert all("data.toml" in line for line in mistakes(write_toml(tmp_path, text)))


@pytest.mark.parametrize("name", ["pocket.toml", "circle.toml"])
def test_shipped_files_are_valid_and_upstreams_without_the_orbit_table(name: str) -> None:
    config = load_dataset_config(REPOSITORY / "dataset_toml" / name, check_files=False)
    assert config.orbit.holdout > 0
    document = toml.load(REPOSITORY / "dataset_toml" / name)
    assert document.keys() == {"general", "datasets", "orbit"}


values = st.recursive(
    st.one_of(st.booleans(), st.integers(-3, 2**70), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=st.dictionaries(st.sampled_from([*VIDEO, "image_directory", "nonsense"]), values, max_size=6),
    orbit=st.dictionaries(st.sampled_from([*ORBIT, "nonsense"]), values, max_size=3),
)
def test_any_value_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, object], orbit: dict[str, object]
) -> None:
    # JSON's scalars and lists are TOML's; toml's own writer fails on some control characters
    lines = [["[[datasets]]"], *([key, value] for key, value in table.items()), ["[orbit]"], *map(list, orbit.items())]
    text = "\n".join(" = ".join([line[0], *(json.dumps(v, ensure_ascii=False) for v in line[1:])]) for line in lines)
    path = write_toml(tmp_path_factory.getbasetemp(), text)
    problems: tuple[str, ...] = ()
    try:
        load_dataset_config(path, check_files=False)
    except UserError as error:
        problems = error.problems
    assert all(str(path) in line for line in problems)
