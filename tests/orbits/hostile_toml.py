"""Some hundred dataset TOMLs that should not be read: wrong values, keys, tables, encodings, and files that are none.

`CASES` are the contents with the words that must be said of them; `special_files` makes what is no file of text at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.orbits.schema import ASCENDABLE, IMAGE_ONLY, ORBIT, VIDEO

DATASET = '[[datasets]]\nvideo_directory = "clips"\ncaption_extension = ".txt"\nresolution = [64, 64]\n'


@dataclass(frozen=True)
class Case:
    """One content and the words that its refusal holds; `problems` is how many mistakes it has, where that is known."""

    name: str
    content: bytes
    words: tuple[str, ...]
    problems: int | None = None


VALUES = {  # no key takes any of these, but for `FITTING`
    "text": '"text"',
    "empty": '""',
    "multiline": '"""\ntwo\nlines"""',
    "true": "true",
    "zero": "0",
    "negative": "-1",
    "decimal": "1.5",
    "nan": "nan",
    "infinite": "-inf",
    "huge": "9" * 40,
    "gigantic": "0x" + "f" * 5000,
    "list": "[]",
    "nested lists": "[[[]], [[1]]]",
    "words": '["a", "b"]',
    "nans": "[nan, inf]",
    "table": "{}",
    "nested tables": "{a = {b = {c = 0x" + "f" * 5000 + "}}}",
    "date": "1979-05-27",
    "time": "07:32:00",
    "moment": "1979-05-27T07:32:00Z",
    "control": '"\\u001b[31m\\u202e"',
    "nul": '"a\\u0000b"',
    "long": '"' + "x" * 5000 + '"',
    "many": "[" + "0, " * 5000 + "0]",
}
FOLDERS = ("video_directory", "video_jsonl_file", "control_directory", "cache_directory", "caption_extension")
FITTING = {
    **dict.fromkeys(FOLDERS, ("text", "multiline", "control")),
    "enable_bucket": ("true",),
    "bucket_no_upscale": ("true",),
    "mirror": ("true",),
    "source_fps": ("decimal",),
    "holdout": ("zero",),
    "fp_latent_window_size": ("zero", "negative", "huge", "gigantic"),  # nobody reads it
}


def _wrong_values() -> Iterator[Case]:
    for key in VIDEO:
        others = "\n".join(line for line in DATASET.splitlines() if not line.startswith(f"{key} "))
        for name, value in VALUES.items():
            if name not in FITTING.get(key, ()):
                yield Case(
                    f"{key} {name}", f"{others}\n{key} = {value}\n".encode(), (f"[[datasets]] 0 {key}: ", "expected")
                )
    for key in ASCENDABLE:
        content = f"[general]\n{key} = {{}}\n{DATASET}".encode()
        yield Case(f"general {key}", content, (f"[general] {key}: expected", "found {}"), 1)
    for key in ORBIT:
        for name, value in VALUES.items():
            if name not in FITTING.get(key, ()):
                content = f"{DATASET}[orbit]\n{key} = {value}\n".encode()
                yield Case(f"orbit {key} {name}", content, (f"[orbit] {key}: expected",), 1)


def _misspelt() -> Iterator[Case]:
    for table, keys in (("[general]", ASCENDABLE), ("[[datasets]]", VIDEO), ("[orbit]", ORBIT)):
        for key in keys:
            middle = len(key) // 2
            for wrong in (key[:middle] + key[middle + 1 :], key[:middle] + "x" + key[middle:], key.upper()):
                content = f"{DATASET}{wrong} = 1\n" if table == "[[datasets]]" else f"{DATASET}{table}\n{wrong} = 1\n"
                where = "[[datasets]] 0" if table == "[[datasets]]" else table
                words = (f"{where} {wrong}: unknown key (nearest known key: {key})",)
                yield Case(f"{table} {wrong}", content.encode(), words, 1)
    for wrong, right in (("generl", "general"), ("Orbit", "orbit"), ("DATASETS", "datasets")):
        yield Case(wrong, f"{DATASET}[{wrong}]\n".encode(), (f"{wrong}: unknown key (nearest known key: {right})",), 1)
    yield Case(
        "dataset", b"[[dataset]]\n", ("nearest known key: datasets", "at least one [[datasets]] table, found nothing")
    )


def _misplaced() -> Iterator[Case]:
    for key in sorted(VIDEO.keys() - ASCENDABLE.keys()):
        content = f"[general]\n{key} = 1\n{DATASET}".encode()
        yield Case(f"general {key}", content, (f"[general] {key}: does not belong", "move it to [[datasets]]"), 1)
    for key in ORBIT:
        for table in ("[general]\n{}" + DATASET, DATASET + "{}"):
            content = table.format(f"{key} = 1\n").encode()
            yield Case(f"{key} in {table[:5]}", content, (f" {key}: does not belong", "move it to [orbit]"), 1)
    for key in ASCENDABLE:
        for content in (f"{key} = 1\n{DATASET}", f"{DATASET}[orbit]\n{key} = 1\n"):
            yield Case(
                f"{key} in {content[:7]}", content.encode(), (f" {key}: does not belong", "move it to [general]"), 1
            )
    for key in sorted(IMAGE_ONLY - {"image_directory", "image_jsonl_file"}):
        words = (f"[[datasets]] 0 {key}: a key of image data sets", "remove it")
        yield Case(f"{key} of images", f"{DATASET}{key} = 1\n".encode(), words, 1)
    for key in ("image_directory", "image_jsonl_file"):
        content = f'[[datasets]]\n{key} = "x"\nbatch_siz = 1\n'.encode()
        yield Case(key, content, (f"{key}: image data sets are not trained here", "nearest known key: batch_size"), 2)


NO_TABLE = ("datasets: expected at least one [[datasets]] table",)
SYNTAX = ("not valid TOML: ",)
WHOLE = {  # a file's content as it stands, and what must be said of it
    "empty": (b"", (*NO_TABLE, "found nothing")),
    "blank": (b"\n \t\n# nothing\n", NO_TABLE),
    "only general": (b"[general]\nbatch_size = 1\n", NO_TABLE),
    "datasets is a number": (b"datasets = 3\n", (*NO_TABLE, "found 3")),
    "datasets is an empty list": (b"datasets = []\n", NO_TABLE),
    "datasets is a list of words": (b'datasets = ["a"]\n', NO_TABLE),
    "datasets is one table": (DATASET.replace("[[datasets]]", "[datasets]").encode(), NO_TABLE),
    "general is a number": (f"general = 1\n{DATASET}".encode(), ("general: expected a table [general], found 1",)),
    "general is a list": (f"[[general]]\n{DATASET}".encode(), ("general: expected a table [general], found [{}]",)),
    "orbit is a word": (f'orbit = "first"\n{DATASET}'.encode(), ("orbit: expected a table [orbit], found 'first'",)),
    "orbit is a date": (f"orbit = 1979-05-27\n{DATASET}".encode(), ("orbit: expected a table",)),
    "a data set without clips": (
        b"[[datasets]]\n",
        ("expected one of video_directory and video_jsonl_file, found neither",),
    ),
    "two sources": (
        f'{DATASET}video_jsonl_file = "x"\ncache_directory = "y"\n'.encode(),
        ("found video_directory and",),
    ),
    "no caption extension": (b'[[datasets]]\nvideo_directory = "x"\n', ("caption_extension: expected the suffix",)),
    "no cache directory": (b'[[datasets]]\nvideo_jsonl_file = "x"\n', ("cache_directory: a JSONL list needs",)),
    "control": (f'{DATASET}control_directory = "x"\n'.encode(), ("control_directory: Wan2.2 image-to-video takes no",)),
    "a suffix with a folder": (DATASET.replace(".txt", "/../x").encode(), ("caption_extension: expected a suffix",)),
    "a surrogate": (DATASET.replace("clips", "\\ud800").encode(), ("data.toml",)),
    "no multiple of 16": (
        DATASET.replace("64, 64", "64, 63").encode(),
        ("resolution: expected sides divisible by 16",),
    ),
    "one cache for two": (
        (DATASET + DATASET).encode(),
        ("[[datasets]] 1 cache_directory: expected a folder of its own",),
    ),
    "one frame for two": (f'{DATASET}[orbit]\ncondition = "first_last"\n'.encode(), ("needs 5 frames or more",)),
    "key twice": (f"{DATASET}batch_size = 1\nbatch_size = 2\n".encode(), SYNTAX),
    "table twice": (f"[general]\n[general]\n{DATASET}".encode(), SYNTAX),
    "table and list": (f"{DATASET}[datasets]\n".encode(), SYNTAX),
    "no value": (b"[general]\nresolution =\n", SYNTAX),
    "no key": (b"= 3\n", SYNTAX),
    "open table": (b"[general\n", SYNTAX),
    "open string": (b'a = "x\n', SYNTAX),
    "open list": (b"a = [" + b'"x",\n' * 1000, SYNTAX),
    "open lists": (b"a = " + b"[" * 40, ("a: unknown key",)),  # the parser closes them
    "a list of two kinds": (DATASET.encode() + b'target_frames = [1, "x"]\n', SYNTAX),
    "no digits": (b"a = 1_\n", SYNTAX),
    "too many digits": (b"a = " + b"1" * 5000, SYNTAX),
    "no date": (b"a = 1979-13-41\n", SYNTAX),
    "no escape": (b'a = "\\q"\n', SYNTAX),
    "a line end in a key": (b'"q.u" = 1\n"q.u" . z\r =. z = rue\n', SYNTAX),
    "JSON": (b'{"datasets": [{"video_directory": "x"}]}', SYNTAX),
    "YAML": (b"general:\n  resolution: 64\n", SYNTAX),
    "a film": (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41", SYNTAX),
    "NUL bytes": (b"\x00" * 1000, SYNTAX),
    "NUL in a key": (f"{DATASET}a\x00b = 1\n".encode(), SYNTAX),
    "escape codes": (f"{DATASET}\x1b[31m = 1\n".encode(), SYNTAX),
    "a key of escape codes": (f'{DATASET}"\\u001b[31m\\u202e" = 1\n'.encode(), ("31m\\u202e: unknown key",)),
    "a key of 100 kB": (DATASET.encode() + b"k" * 100_000 + b" = 1\n", ("kkkk: unknown key",)),
    "latin-1": (DATASET.replace("clips", "caf\xe9").encode("latin-1"), ("expected UTF-8 text, found byte 0xe9 at 35",)),
    "UTF-16": (DATASET.encode("utf-16"), ("expected UTF-8 text, found byte 0xff at 0",)),
    "BOM": (DATASET.encode("utf-8-sig"), ("begins with a byte order mark", "save it as UTF-8 without")),
    "deep lists": (b"a = " + b"[" * 30_000 + b"]" * 30_000, ("brackets within brackets, more than 40 deep",)),
    "deep lists of lines": (b"a = " + b"[\n" * 30_000 + b"]\n" * 30_000, ("brackets within brackets",)),
    "deep inline tables": (b"a = " + b"{a = " * 10_000 + b"1" + b"}" * 10_000, ("brackets within brackets",)),
    "deep tables": (b"[" + b".".join([b"a"] * 30_000) + b"]\n", ("a: unknown key",)),
    "deep general": (b"[general" + b".a" * 30_000 + b"]\n", ("[general] a: unknown key",)),
    "deep resolution": (b"[general.resolution" + b".a" * 30_000 + b"]\n", ("[general] resolution: expected",)),
    "10 MB": (DATASET.encode() + b"# x\n" * 2_500_000, ("of at most 128 kB, found more",)),
    "10 MB of quotes": (b'a = "' + b'\\"' * 5_000_000 + b'"', ("of at most 128 kB, found more",)),
    "120 kB of quotes": (b'a = "' + b'\\"' * 60_000 + b'"', ("a: unknown key",)),
    "10000 unknown keys": (b"".join(b"k%d = 1\n" % index for index in range(10_000)), ("and 9901 more mistakes",)),
    "7000 empty data sets": (b"[[datasets]]\n" * 7000, ("[[datasets]] 99: expected one of", "and 6900 more mistakes")),
    "five mistakes": (
        b"[general]\nbatch_size = 0\nresolutoin = 1\n[[datasets]]\nvideo_directory = 3\nsource_fps = 30\n[orbt]\n",
        ("batch_size", "resolutoin", "video_directory", "source_fps", "orbt", "caption_extension"),
    ),
}


def _whole() -> Iterator[Case]:
    for name, (content, words) in WHOLE.items():
        yield Case(name, content, words, len(words) if name == "five mistakes" else None)


CASES = [*_wrong_values(), *_misspelt(), *_misplaced(), *_whole()]


def special_files(folder: Path) -> dict[Path, str]:
    """Paths that are no readable TOML, each with the words that must be said of it."""
    (folder / "folder.toml").mkdir()
    os.mkfifo(folder / "pipe.toml")
    (folder / "loop.toml").symlink_to("loop.toml")
    (folder / "gone.toml").symlink_to("nowhere")
    (folder / "file").write_text(DATASET, encoding="utf-8")
    (folder / "data.json").write_text("{}", encoding="utf-8")
    (folder / "new\nline\x1b.toml").write_text("", encoding="utf-8")
    found = {
        folder / "folder.toml": "found a folder",
        folder / "pipe.toml": "found a device, pipe or socket",
        folder / "loop.toml": "cannot be read",
        folder / "gone.toml": "found nothing",
        folder / "missing.toml": "found nothing",
        folder / "file" / "data.toml": "cannot be read",
        folder / ("x" * 300 + ".toml"): "cannot be read",
        folder / "nul\0.toml": "cannot be read",
        folder / "file": "with the suffix .toml, found no suffix",
        folder / "data.json": "with the suffix .toml, found .json",
        folder / "new\nline\x1b.toml": "at least one [[datasets]] table",
        Path("/dev/zero"): "found a device, pipe or socket",
    }
    if Path("/proc/self/mem").is_file():  # opens, and refuses to be read
        (folder / "memory.toml").symlink_to("/proc/self/mem")
        found[folder / "memory.toml"] = "cannot be read: Input/output error"
    if os.geteuid():
        (folder / "locked.toml").write_text(DATASET, encoding="utf-8")
        (folder / "locked.toml").chmod(0)
        found[folder / "locked.toml"] = "cannot be read: Permission denied"
    return found
