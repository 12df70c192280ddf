"""What we accept musubi-tuner accepts, our `[orbit]` table stripped, and the reverse, but for the rows of `EXCEPTIONS`.

Accepted by musubi-tuner means: its own loader reads the file, its `ConfigSanitizer` passes it, and its data sets are
built from it over folders that are there, as its trainer does before it looks for caches.
"""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from config_documents import documents, toml_text
from config_exceptions import COUNTS, EXCEPTIONS, Intended, Table, excepted
from hypothesis import HealthCheck, given, settings

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.orbits.schema import ORBIT


@pytest.fixture(scope="module")
def upstream(host: ModuleType) -> Iterator[ModuleType]:
    """Its `config_utils`, which tells at length what it builds."""
    module = import_host_module("musubi_tuner.dataset.config_utils")
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield module
    logging.disable(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders and lists that the generated data sets name; clips are empty, nobody decodes them."""
    root = tmp_path_factory.mktemp("equality")
    for name in ("clips", "more", "empty", "images"):
        (root / name).mkdir()
    for name in ("clips/a.mp4", "clips/b.mov", "more/c.mkv"):
        (root / name).touch()
        (root / name).with_suffix(".txt").write_text("camera circles right to left", encoding="utf-8")
        (root / name).with_suffix(".caption").write_text("camera circles right to left", encoding="utf-8")
    record = {"video_path": str(root / "clips" / "a.mp4"), "caption": "a"}
    (root / "list.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    (root / "none.jsonl").touch()
    (root / "gone.jsonl").write_text(json.dumps({**record, "video_path": "gone.mp4"}) + "\n", encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def ours(document: Table) -> str:
    """Why we refuse a document, "" where we accept it."""
    path = Path("data.toml")
    path.write_text(toml_text(document), encoding="utf-8")
    try:
        load_dataset_config(path)
    except UserError as error:
        return str(error)
    return ""


def theirs(upstream: ModuleType, document: Table) -> str:
    """Why musubi-tuner refuses a document without its [orbit], "" where it accepts it."""
    path = Path("upstream.toml")
    path.write_text(toml_text({key: value for key, value in document.items() if key != "orbit"}), encoding="utf-8")
    generator = upstream.BlueprintGenerator(upstream.ConfigSanitizer())
    try:
        blueprint = generator.generate(upstream.load_user_config(str(path)), Namespace(), architecture="wan")
        upstream.generate_dataset_group_by_blueprint(blueprint.dataset_group)
    except Exception as error:  # whatever it raises: it has no error of its own
        return f"{type(error).__name__}: {error}"
    return ""


def may_be_judged(document: Table) -> bool:
    """Not one whose [orbit] is wrong: that table is ours."""
    orbit = document.get("orbit", {})
    return isinstance(orbit, dict) and all(key in ORBIT and ORBIT[key](value) is None for key, value in orbit.items())


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(document=documents)
def test_both_accept_the_same_files(upstream: ModuleType, document: Table) -> None:
    if not may_be_judged(document):
        return
    refused, refused_there = ours(document), theirs(upstream, document)
    if not refused:
        assert not refused_there, f"we accept, musubi-tuner: {refused_there}\n{toml_text(document)}"
    elif not refused_there:
        assert excepted(document), f"musubi-tuner accepts, we: {refused}\n{toml_text(document)}"


def test_the_generated_files_are_not_all_refused(upstream: ModuleType) -> None:
    """Else the property above would hold for nothing."""
    verdicts: list[tuple[bool, bool]] = []

    @settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(document=documents)
    def count(document: Table) -> None:
        verdicts.append((not ours(document), not theirs(upstream, document)))

    count()
    assert verdicts.count((True, True)) > 10
    assert verdicts.count((False, False)) > 10
    assert verdicts.count((False, True)) > 10


@pytest.mark.parametrize("row", EXCEPTIONS, ids=lambda row: row.reason)
def test_every_exception_is_one(upstream: ModuleType, row: Intended) -> None:
    """Its example is built by musubi-tuner and refused by us, for no reason but its own."""
    general = {"resolution": 64, "caption_extension": ".txt"}
    document = {"general": general, "datasets": [row.example]}
    assert ours(document)
    assert not theirs(upstream, document)
    assert excepted(document) == [row.reason]


@pytest.mark.parametrize("name", ["fp_latent_window_size", *COUNTS])
def test_integers_that_are_never_read_may_be_any(upstream: ModuleType, name: str) -> None:
    document = {"datasets": [{"video_directory": "clips", "caption_extension": ".txt", name: -1}]}
    assert not theirs(upstream, document)
    assert bool(ours(document)) == (name != "fp_latent_window_size")


CLIPS = '[[datasets]]\nvideo_directory = "clips"\ncaption_extension = ".txt"\nresolution = 64\n'
FILES: list[tuple[str, bytes, bool, bool]] = [  # name, content, whether we accept it, whether musubi-tuner does
    ("plain.toml", CLIPS.encode(), True, True),
    ("UPPER.TOML", CLIPS.encode(), True, True),
    ("crlf.toml", CLIPS.replace("\n", "\r\n").encode(), True, True),
    ("cr.toml", CLIPS.replace("\n", "\r").encode(), True, True),
    ("bom.toml", CLIPS.encode("utf-8-sig"), False, False),
    ("utf16.toml", CLIPS.encode("utf-16"), False, False),
    ("latin.toml", b"# \xe9\n" + CLIPS.encode(), False, False),
    ("nul.toml", b"\x00" + CLIPS.encode(), False, False),
    ("empty.toml", b"", False, False),
    ("twice.toml", CLIPS.encode() + b"resolution = 64\n", False, False),
    ("none", CLIPS.encode(), False, False),
    ("data.txt", CLIPS.encode(), False, False),
    ("data.json", json.dumps({"datasets": [{"video_directory": "clips"}]}).encode(), False, True),  # we read TOML alone
    ("large.toml", CLIPS.encode() + b"# comment\n" * 20_000, False, True),  # of other content it would take minutes
]


@pytest.mark.parametrize(("name", "content", "here", "there"), FILES, ids=[row[0] for row in FILES])
def test_files_of_every_kind(upstream: ModuleType, name: str, content: bytes, here: bool, there: bool) -> None:
    Path(name).write_bytes(content)
    try:
        load_dataset_config(name)
        accepted = True
    except UserError:
        accepted = False
    assert accepted == here
    try:
        generator = upstream.BlueprintGenerator(upstream.ConfigSanitizer())
        blueprint = generator.generate(upstream.load_user_config(name), Namespace(), architecture="wan")
        upstream.generate_dataset_group_by_blueprint(blueprint.dataset_group)
        accepted = True
    except Exception:
        accepted = False
    assert accepted == there


def test_a_blank_line_in_a_list_is_passed_over_here_and_fails_there(upstream: ModuleType) -> None:
    lines = Path("list.jsonl").read_text(encoding="utf-8")
    Path("blank.jsonl").write_text(lines + "\n", encoding="utf-8")
    document = {"datasets": [{"video_jsonl_file": "blank.jsonl", "cache_directory": "cache", "resolution": 64}]}
    assert not ours(document)
    assert "JSONDecodeError" in theirs(upstream, document)


def test_values_mean_the_same(upstream: ModuleType) -> None:
    """What is left out, inherited or overridden comes out as in musubi-tuner's own data set."""
    document = {
        "general": {"resolution": 64, "caption_extension": ".txt", "batch_size": 3, "enable_bucket": True},
        "datasets": [
            {"video_directory": "clips", "batch_size": 2, "target_frames": [17, 5, 17]},
            {"video_directory": "more"},
        ],
    }
    assert not ours(document)
    generator = upstream.BlueprintGenerator(upstream.ConfigSanitizer())
    assert not theirs(upstream, document)
    blueprint = generator.generate(upstream.load_user_config("upstream.toml"), Namespace(), architecture="wan")
    built = upstream.generate_dataset_group_by_blueprint(blueprint.dataset_group).datasets
    names = ("resolution", "batch_size", "num_repeats", "enable_bucket", "bucket_no_upscale", "target_frames")
    names += ("frame_extraction", "frame_stride", "frame_sample", "max_frames", "source_fps", "caption_extension")
    for mine, its in zip(load_dataset_config("data.toml").datasets, built, strict=True):
        assert [getattr(mine, name) for name in names] == [getattr(its, name) for name in names]
        assert str(mine.cache_directory) == its.cache_directory
