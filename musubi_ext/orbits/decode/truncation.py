"""Whether a clip's container claims more bytes than the file has: a copy or a download that stopped half-way.

libav reads such a file up to the cut without a word, so a training set would silently hold shorter clips. Formats:
ISO/IEC 14496-12 section 4.2 (boxes), RFC 8794 sections 4 to 6 (EBML), GIF89a section 27 (trailer).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

BOXES = (b"mdat", b"moov", b"moof")  # what may follow the last of them is not needed, and need not be boxes
MAX_BOXES = 100_000  # a fragmented clip of hours has some thousands
EBML, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
GIF_TAIL = 1024  # bytes: some programs pad the end with zeros


def missing_bytes(path: Path | str, size: int) -> str:
    """What is missing of the file of `size` bytes, in words; empty when it is whole or of another format.

    Raises OSError when the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        if start[4:8] == b"ftyp":
            return _cut_box(file, size)
        if start[:4] == EBML:
            return _cut_segment(file, size)
        if start[:3] == b"GIF":
            file.seek(max(size - GIF_TAIL, 0))
            return "" if file.read().rstrip(b"\0").endswith(b";") else "the gif's trailer is missing"
    return ""


def _cut_box(file: BinaryIO, size: int) -> str:
    position = 0
    for _ in range(MAX_BOXES):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            break
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:  # the size follows in eight bytes
            length = int.from_bytes(header[8:], "big")
        if length < 8:  # 0: up to the end of the file
            break
        position += length
        if position > size and kind in BOXES:
            return f"its {kind.decode()} box ends at byte {position}, the file at byte {size}"
    return ""


def _cut_segment(file: BinaryIO, size: int) -> str:
    file.seek(len(EBML))
    header = _size(file)
    if header is None:
        return "its header is incomplete"
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != SEGMENT:
        return ""
    length = _size(file)
    if length is None:  # recorded live: ends where it ends
        return ""
    end = file.tell() + length
    return f"its segment ends at byte {end}, the file at byte {size}" if end > size else ""


def _size(file: BinaryIO) -> int | None:
    """An EBML element's size: the leading zeros of the first byte count the bytes that follow. None when unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    mask = (1 << 7 * length) - 1
    value = int.from_bytes(first + rest, "big") & mask
    return None if len(rest) < length - 1 or value == mask else value
