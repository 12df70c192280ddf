"""What a clip's caches are called: its file's stem, as in musubi-tuner, unless another clip has the same one.

Cites `musubi_tuner/dataset/image_video_dataset.py` (`get_latent_cache_path`), which names by the stem alone, so that of
a/cat.mp4 and b/cat.mp4 the second overwrites the first. Here each of them gets a name of its own, `cat-1f3a9c2e`: the
stem and the first hex digits of the SHA-256 of the clip's *place*, which is the path as the list writes it (`.`, `..`
and doubled slashes folded), or the file's name in a folder of clips. Names depend on the places in the list and on
nothing else: not on the working directory, the machine or the order.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

MIRRORED = "-mirrored"  # appended to the stem of a mirrored clip's caches
LONGEST = 180  # bytes of a stem: with MIRRORED, window, size and a temporary name's digits a file name has at most 255
DIGITS = (8, 16, 32, 64)  # of the hash: more only where fewer are another clip's name


@dataclass(frozen=True)
class CacheNames:
    """Stems of one clip's cache files, and of those of its mirror image."""

    stem: str
    mirrored: str


def cache_names(places: Sequence[str]) -> dict[str, CacheNames]:
    """By place, stems that no two clips share: neither as they are, nor mirrored, nor where case does not count.

    A stem that one clip alone has is kept. Not kept, beside shared ones: those that begin with a dot, which upstream
    does not find, those longer than 180 bytes, and those that are no text.
    """
    stems = {place: PurePath(place).stem for place in places}
    count = Counter(_folded(stem) for stem in stems.values())
    names = {place: stem for place, stem in stems.items() if count[_folded(stem)] == 1 and _fits(stem)}
    taken = {_folded(stem) for stem in names.values()}
    for place in sorted(stems.keys() - names.keys()):
        names[place] = _own(stems[place].lstrip(".") or "clip", place, taken)
    mirrored = {}
    for place in sorted(names):  # last: a clip that is called cat-mirrored keeps its name
        wanted = names[place] + MIRRORED
        mirrored[place] = _own(wanted, place, taken) if _folded(wanted) in taken else wanted
        taken.add(_folded(mirrored[place]))
    return {place: CacheNames(names[place], mirrored[place]) for place in names}


def _own(stem: str, place: str, taken: set[str]) -> str:
    """`stem` with the fewest digits of its place's hash that make it new; added to `taken`."""
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    candidates = [f"{_cut(stem, LONGEST - count - 1)}-{digest[:count]}" for count in DIGITS]
    name = next(candidate for candidate in candidates if _folded(candidate) not in taken)
    taken.add(_folded(name))
    return name


def _fits(stem: str) -> bool:
    return not stem.startswith(".") and _cut(stem, LONGEST) == stem


def _cut(stem: str, size: int) -> str:
    """As much of `stem` as `size` bytes hold; bytes that are no UTF-8 are left out."""
    return stem.encode("utf-8", "ignore")[:size].decode("utf-8", "ignore")


def _folded(stem: str) -> str:
    """Equal for names that a disk may take for one: Cat and cat, composed and decomposed accents."""
    return unicodedata.normalize("NFC", stem).casefold()
