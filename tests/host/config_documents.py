"""Dataset TOMLs drawn at random, most of them nearly right, and their text."""

from __future__ import annotations

import json
from typing import Any

from config_exceptions import EXTENSIONS, Table, as_list, is_table
from hypothesis import strategies as st

from musubi_ext.orbits.schema import ASCENDABLE, IMAGE_ONLY, VIDEO


def toml_text(document: Table) -> str:
    """The document as TOML: tables of [general], [orbit] and [[datasets]], everything else inline."""
    lines = [f"{key} = {_inline(value)}" for key, value in document.items() if not is_table(value)]
    for key, value in document.items():
        if is_table(value):
            head = f"[{key}]" if isinstance(value, dict) else f"[[{key}]]"
            for table in as_list(value):
                lines += [head, *(f"{name} = {_inline(entry)}" for name, entry in table.items())]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # nan and inf are TOML's words too
    return json.dumps(value, ensure_ascii=False)


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
