"""`musubi-ext data caption`: the captions that clips lack, from the names of their folders or from a template.

Tags stand in the order of the Circle-Rotate data: viewpoint, shot scale, camera move, then the rest.

    clips/eye_level/full_shot/right_to_left/a_blue_sedan/01.mp4
    → 01.txt: eye level, full shot, camera circles right to left, a blue sedan
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from string import Formatter

from musubi_ext.errors import Problems, UserError, shown
from musubi_ext.orbits.captions import CIRCLES, SHOTS, VIEWPOINTS, direction
from musubi_ext.orbits.sources import LISTED, VIDEO_SUFFIXES
from musubi_ext.storage import write_text

CAMERA = {"english": CIRCLES, "dataset": {+1: "Circle Right->Left", -1: "Circle Left->Right"}}
FIELDS = ("camera", "folder", "name")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="clips, also in folders below it")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--from-folder-names",
        action="store_true",
        help="a tag of each folder name: eye_level/right_to_left/a_blue_sedan",
    )
    how.add_argument(
        "--template",
        metavar="TEXT",
        help="one sentence; {camera}: the move that folders or file name say, {folder}, {name}: those of the clip",
    )
    parser.add_argument(
        "--tags",
        default="english",
        choices=list(CAMERA),
        help='"camera circles right to left" or, as in the data set, "Circle Right->Left" (%(default)s)',
    )
    parser.add_argument("--caption-extension", default=".txt", metavar="SUFFIX", help="of the captions (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="also replace captions that exist")
    parser.add_argument("--dry-run", action="store_true", help="print the captions, write none")


def run(args: argparse.Namespace) -> int:
    """Write the captions; returns 0. Raises UserError, with nothing written, when a clip cannot be captioned."""
    captions, kept = _captions(args)
    for file, caption in captions.items():
        if args.dry_run:
            print(f"{shown(file)}: {caption}")
        else:
            write_text(file, caption + "\n")
    done = "would be written" if args.dry_run else "written"
    print(f"{len(captions)} captions {done}, {kept} exist and stay as they are")
    return 0


def _captions(args: argparse.Namespace) -> tuple[dict[Path, str], int]:
    """Caption files to write with their text, and how many are left alone."""
    problems = Problems()
    if not re.fullmatch(r"\.[\w.-]+", args.caption_extension):
        problems.add(f"--caption-extension {args.caption_extension}", "expected a suffix such as .txt")
    if args.template is not None:
        problems.collect(lambda: _check_template(args.template))
    problems.raise_if_any()
    clips = list(_clips(args.folder))
    files = {clip: clip.with_name(clip.stem + args.caption_extension) for clip in clips}
    wanted = [clip for clip in clips if args.overwrite or not os.path.lexists(files[clip])]
    found = {files[clip]: problems.collect(partial(_caption, clip, args)) or "" for clip in wanted}
    if problems.found:
        more = len(problems.found) - LISTED
        rest = [f"{shown(args.folder)}: the same for {more} more clips"] if more > 0 else []
        raise UserError([*problems.found[:LISTED], *rest])
    return found, len(clips) - len(wanted)


def _clips(folder: Path) -> Iterator[Path]:
    """Every clip below `folder`, sorted; links to folders are not followed. Raises UserError when there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of clips, found {'a file' if folder.exists() else 'nothing'}")
    paths = sorted(Path(root, name) for root, _, names in os.walk(folder) for name in names)
    clips = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")]
    if not clips:
        raise UserError(f"{folder}: expected clips ({', '.join(VIDEO_SUFFIXES)}), found none")
    yield from clips


def _check_template(template: str) -> None:
    """Raises UserError unless its fields are plain names that are known."""
    problems = Problems()
    where, known = f"--template {template!r}", ", ".join(f"{{{name}}}" for name in FIELDS)
    try:
        fields = [
            (name, form, conversion) for _, name, form, conversion in Formatter().parse(template) if name is not None
        ]
    except ValueError as error:
        raise UserError(f"{where}: {error} (write {{{{ for a brace)") from error
    for name, form, conversion in fields:
        if name not in FIELDS or form or conversion:
            problems.add(where, f"unknown field {{{name}}}", f"known: {known}")
    if not template.strip():
        problems.add("--template", "expected a sentence, found nothing")
    problems.raise_if_any()


def _caption(clip: Path, args: argparse.Namespace) -> str:
    """One clip's caption. Raises UserError when its names do not say what is needed."""
    folders = clip.relative_to(args.folder).parts[:-1] or (args.folder.resolve().name,)
    if args.from_folder_names:
        tags = [tag for folder in folders for tag in _tags(folder)]
        caption = ", ".join(_ordered(tags, _camera(clip, tags, args.tags)))
    else:
        needs = "{camera}" in args.template
        camera = _camera(clip, [_words(name) for name in (*folders, clip.stem)], args.tags) if needs else ""
        caption = args.template.format(camera=camera, folder=_words(folders[-1]), name=_words(clip.stem)).strip()
    if not caption.isprintable():
        raise UserError(f"{shown(clip)}: expected names of printable text, found {shown(caption)} (rename the folder)")
    return caption


def _camera(clip: Path, tags: list[str], language: str) -> str:
    said = {direction(tag) for tag in tags} - {0}
    if len(said) != 1:
        found = "both" if said else "none"
        fix = "name a folder right_to_left or left_to_right"
        raise UserError(f"{shown(clip)}: expected one direction in the names of its folders, found {found} ({fix})")
    return CAMERA[language][said.pop()]


def _ordered(tags: list[str], camera: str) -> list[str]:
    """Viewpoint, shot scale, camera move, the rest as it stands."""
    others = [tag for tag in tags if not direction(tag)]
    viewpoints = [tag for tag in others if tag.lower() in VIEWPOINTS]
    shots = [tag for tag in others if tag.lower() in SHOTS]
    return [*viewpoints, *shots, camera, *(tag for tag in others if tag not in viewpoints + shots)]


def _tags(folder: str) -> list[str]:
    """The tags of one folder name, e.g. "eye_level, full_shot"."""
    return [words for part in folder.split(",") if (words := _words(part))]


def _words(name: str) -> str:
    """A name as words: underscores are spaces."""
    return " ".join(name.replace("_", " ").split())
