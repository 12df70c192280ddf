"""What we accept musubi-tuner accepts, our `[orbit]` table stripped, and the reverse, but for the rows of `EXCEPTIONS`.

Accepted by musubi-tuner means: its own loader reads the file, its `ConfigSanitizer` passes it, and its data sets are
built from it over folders that are there, as its trainer does before it looks for caches.

The exceptions, each with its reason and an example in the table below, are of four kinds:

* not trained here: image data sets, control videos;
* breaks later: musubi-tuner builds the data set, and caching or training then fails or never ends (counts of nought,
  nan frames a second, no suffix of captions, no folder for caches, names that no file system holds);
* trained otherwise than written, without an error: `true` as the number 1, frame counts and sizes rounded, one of two
  sources ignored, a folder without clips, two spellings of one cache folder;
* files that its parser takes minutes over, and JSON.

In the other direction there is one: a blank line in a JSONL list, which we pass over and musubi-tuner fails on.
"""

from __future__ import annotations

import json
import logging
import math
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.importing import import_host_module
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.orbits.schema import ASCENDABLE, IMAGE_ONLY, ORBIT, VIDEO

Table = dict[str, Any]
Rule = Callable[[Table, Table], bool]  # of a [[datasets]] table with [general] merged in, and that table alone
COUNTS = ("batch_size", "num_repeats", "frame_stride", "frame_sample", "max_frames")
PLACES = ("video_directory", "video_jsonl_file", "control_directory", "cache_directory")
EXTENSIONS = (".txt", ".caption")  # of the captions that are there
LISTS = ("target_frames", "resolution")


@dataclass(frozen=True)
class Intended:
    """One kind of data set that musubi-tuner builds and we refuse; `example` is a [[datasets]] table of that kind."""

    reason: str
    applies: Rule
    example: Table


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _sides(table: Table) -> list[Any]:
    return _listed(table.get("resolution", [960, 544]))


EXCEPTIONS = (
    Intended(
        "image data sets are not trained here: a still image has no camera motion to learn",
        lambda merged, table: "image_directory" in table or "image_jsonl_file" in table,
        {"image_directory": "images"},
    ),
    Intended(
        "Wan2.2 image-to-video takes no control video",
        lambda merged, table: "control_directory" in table,
        {"video_directory": "clips", "control_directory": "clips"},
    ),
    Intended(
        "true is no number, and musubi-tuner reads it as 1",
        lambda merged, table: any(
            isinstance(value, bool)
            for key in (*COUNTS, *LISTS, "fp_latent_window_size")
            for value in _listed(merged.get(key))
        ),
        {"video_directory": "clips", "batch_size": True},
    ),
    Intended(
        "a count of nought or less ends in a division by it or in nothing to train on, wherever it is read; one above "
        "a million is a slip",
        lambda merged, table: any(_whole(merged.get(key)) and not 1 <= merged[key] <= 1_000_000 for key in COUNTS),
        {"video_directory": "clips", "num_repeats": 0},
    ),
    Intended(
        "frame counts other than 4n+1 are rounded down with a warning: what is trained is not what is written",
        lambda merged, table: any(
            _whole(frames) and (frames % 4 != 1 or not 1 <= frames <= 1_000_000)
            for frames in _listed(merged.get("target_frames"))
        ),
        {"video_directory": "clips", "target_frames": [16]},
    ),
    Intended(
        "without target_frames nothing is cut from a clip",
        lambda merged, table: merged.get("target_frames") == [],
        {"video_directory": "clips", "target_frames": [], "frame_extraction": "chunk"},
    ),
    Intended(
        "caching raises ValueError at the first clip",
        lambda merged, table: (
            isinstance(merged.get("frame_extraction"), str)
            and merged["frame_extraction"] not in ("head", "chunk", "slide", "uniform", "full")
        ),
        {"video_directory": "clips", "frame_extraction": "middle"},
    ),
    Intended(
        "no clip has that many frames a second: caching divides by it, or keeps no frame",
        lambda merged, table: isinstance(merged.get("source_fps"), float) and not 0 < merged["source_fps"] <= 1000,
        {"video_directory": "clips", "source_fps": math.nan},
    ),
    Intended(
        "a side below 16 has no bucket, one above 8192 no memory",
        lambda merged, table: any(_whole(side) and not 16 <= side <= 8192 for side in _sides(merged)),
        {"video_directory": "clips", "resolution": [8, 8], "enable_bucket": True},
    ),
    Intended(
        "without buckets, sides not divisible by 16 are cached at another size than the one written",
        lambda merged, table: (
            merged.get("enable_bucket") is not True and any(_whole(side) and side % 16 for side in _sides(merged))
        ),
        {"video_directory": "clips", "resolution": [180, 320]},
    ),
    Intended(
        "captions are looked for in a file without a name, and caching texts fails",
        lambda merged, table: "video_directory" in table and not merged.get("caption_extension"),
        {"video_directory": "clips", "caption_extension": ""},
    ),
    Intended(
        "captions that are not there are found out while caching",
        lambda merged, table: (
            "video_directory" in table
            and merged.get("caption_extension", "") not in ("", *EXTENSIONS)
            and "/" not in merged["caption_extension"]
        ),
        {"video_directory": "clips", "caption_extension": ".md"},
    ),
    Intended(
        "captions belong beside their clips, under the clip's name",
        lambda merged, table: any(char in str(merged.get("caption_extension")) for char in "/\0"),
        {"video_directory": "clips", "caption_extension": "/caption.txt"},
    ),
    Intended(
        "an empty name, or one that no file system holds: the working directory is read, or nothing",
        lambda merged, table: (
            any(
                isinstance(name := merged.get(key), str)
                and (
                    not name
                    or "\0" in name
                    or len(name.encode()) > 4095
                    or any(len(p.encode()) > 255 for p in name.split("/"))
                )
                for key in PLACES
            )
            or len(str(merged.get("caption_extension"))) > 200
        ),
        {"video_directory": "clips", "cache_directory": "c" * 256},
    ),
    Intended(
        "a list of clips has no folder of its own, so its caches have none: caching fails",
        lambda merged, table: "video_jsonl_file" in table and "cache_directory" not in table,
        {"video_jsonl_file": "list.jsonl"},
    ),
    Intended(
        "of two sources musubi-tuner ignores the list",
        lambda merged, table: "video_directory" in table and "video_jsonl_file" in table,
        {"video_directory": "clips", "video_jsonl_file": "list.jsonl", "cache_directory": "cache"},
    ),
    Intended(
        "a folder without clips, or none at all, is trained on as a data set of nothing",
        lambda merged, table: table.get("video_directory") in ("empty", "nowhere", "list.jsonl"),
        {"video_directory": "empty"},
    ),
    Intended(
        "a list without clips, or with clips that are not there, is found out while caching",
        lambda merged, table: table.get("video_jsonl_file") in ("none.jsonl", "gone.jsonl"),
        {"video_jsonl_file": "none.jsonl", "cache_directory": "cache"},
    ),
)


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


def toml_text(document: Table) -> str:
    """The document as TOML: tables of [general], [orbit] and [[datasets]], everything else inline."""
    lines = [f"{key} = {_inline(value)}" for key, value in document.items() if not _is_table(value)]
    for key, value in document.items():
        if _is_table(value):
            head = f"[{key}]" if isinstance(value, dict) else f"[[{key}]]"
            for table in _listed(value):
                lines += [head, *(f"{name} = {_inline(entry)}" for name, entry in table.items())]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        bool(value) and isinstance(value, list) and all(isinstance(one, dict) for one in value)
    )


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # nan and inf are TOML's words too
    return json.dumps(value, ensure_ascii=False)


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


def excepted(document: Table) -> list[str]:
    """The reasons for which we may refuse what musubi-tuner accepts."""
    general, tables = document.get("general", {}), document.get("datasets", [])
    orbit = document.get("orbit", {})
    if not (isinstance(general, dict) and isinstance(orbit, dict) and _is_table(tables)):
        return []
    found = [row.reason for row in EXCEPTIONS for table in tables if row.applies({**general, **table}, table)]
    found += [row.reason for row in EXCEPTIONS if row.applies(general, {}) and general.keys() & ASCENDABLE.keys()]
    caches = [os.path.realpath(str(table.get("cache_directory", table.get("video_directory")))) for table in tables]
    if len(set(caches)) < len(caches):
        found.append("two spellings of one cache folder: the data sets overwrite each other's caches")
    return found


numbers = st.one_of(
    st.integers(-5, 200), st.sampled_from([0, 1, 2**31, 2**70]), st.floats(), st.sampled_from([16.0, 30.0, 1000.5, 0.0])
)
words = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r", exclude_categories=("Cc",)), max_size=4),
    st.sampled_from(["clips", "more", "./clips", "clips/../clips", "empty", "nowhere", "list.jsonl", "none.jsonl"]),
    st.sampled_from([".txt", "cache", "cache/", "head", "full", "uniform", "gone.jsonl", "x" * 300]),
)
anything = st.one_of(
    st.booleans(),
    numbers,
    words,
    st.lists(st.integers(-3, 100), max_size=3),
    st.lists(words, max_size=2),
    st.just({}),
    st.just([[]]),
)
FITTING: dict[str, st.SearchStrategy[Any]] = {
    "caption_extension": st.sampled_from(EXTENSIONS),
    "batch_size": st.integers(1, 4),
    "num_repeats": st.integers(1, 4),
    "resolution": st.one_of(st.sampled_from([64, [64, 48]]), st.lists(st.integers(1, 200), min_size=2, max_size=2)),
    "enable_bucket": st.booleans(),
    "bucket_no_upscale": st.booleans(),
    "video_directory": st.sampled_from(["clips", "more", "./more"]),
    "video_jsonl_file": st.just("list.jsonl"),
    "target_frames": st.lists(st.sampled_from([1, 5, 17, 16, 81]), min_size=1, max_size=3),
    "frame_extraction": st.sampled_from(["head", "chunk", "slide", "uniform", "full"]),
    "frame_stride": st.integers(1, 9),
    "frame_sample": st.integers(1, 9),
    "max_frames": st.integers(1, 200),
    "cache_directory": st.sampled_from(["cache", "other", "third"]),
    "source_fps": st.sampled_from([16.0, 24.0, 30.0]),
    "fp_latent_window_size": st.integers(-3, 9),
}
KNOWN = [*VIDEO, *IMAGE_ONLY, "debug_dataset", "architecture", "resolutoin", "clips"]


def entries(keys: list[str], odd: int) -> st.SearchStrategy[Table]:
    """A table of some of `keys`, mostly with values that fit; one key in `odd` is any known key with any value."""
    fitting = st.sampled_from([key for key in keys if key in FITTING]).flatmap(
        lambda key: st.tuples(st.just(key), FITTING[key])
    )
    strange = st.one_of(
        st.tuples(st.sampled_from(keys), anything), st.tuples(st.sampled_from(KNOWN), st.one_of(anything, st.just(1)))
    )
    return st.lists(st.integers(1, odd).flatmap(lambda draw: strange if draw == 1 else fitting), max_size=6).map(dict)


SOURCES = st.sampled_from([{"video_directory": "clips"}] * 4 + [{"video_directory": "more"}, {}]) | st.just(
    {"video_jsonl_file": "list.jsonl", "cache_directory": "cache"}
)
tables = st.tuples(SOURCES, entries([*VIDEO], 8)).map(lambda parts: {**parts[0], **parts[1]})
documents = st.fixed_dictionaries(
    {
        "general": entries([*ASCENDABLE], 12).map(
            lambda table: {"caption_extension": ".txt", "resolution": 64, **table}
        ),
        "datasets": st.lists(tables, min_size=1, max_size=3),
    },
    optional={"orbit": st.dictionaries(st.sampled_from(["holdout", "mirror"]), st.just(False), max_size=1)},
) | st.dictionaries(
    st.sampled_from(["general", "datasets", "orbit", "dataset"]), st.one_of(anything, tables), max_size=3
)


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
