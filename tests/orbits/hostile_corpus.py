"""Builds some hundred files that should not hurt a decoder: cut, forged, endless, oddly named, not there at all.

`build` returns what each of them must do: "refused" (a UserError that names it), "readable" (frames come out) or
"either" (a forged byte may hit what nobody reads). Everything is made from code, seeded, and tiny or sparse.
"""

from __future__ import annotations

import io
import os
import random
import socket
import wave
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import av
import numpy as np
from PIL import Image

REFUSED, READABLE, EITHER = "refused", "readable", "either"
FRAMES, WIDTH, HEIGHT = 12, 64, 48
TERABYTE = 1 << 40
BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"udta", b"mvex", b"moof", b"traf", b"mfra"}
MASTERS = {  # EBML elements that hold others
    *(0x18538067, 0x114D9B74, 0x4DBB, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0x55B0, 0x1F43B675, 0xA0),
    *(0x1C53BB6B, 0xBB, 0xB7, 0x1254C367, 0x7373, 0x63C0, 0x67C8),
}
NAMES = (
    *("new\nline.mp4", "two\r\nlines.mp4", "tab\t.mp4", "esc\x1b[31m.mp4", "bell\x07.mp4", "emoji 😀🎥.mp4"),
    *("family 👨‍👩‍👧.mp4", "..clip.mp4", "a..b.mp4", "...mp4", "-rf.mp4", "--help.mp4", "quote'.mp4", 'quote".mp4'),
    *("percent%d.mp4", "percent%s%n.mp4", "star*.mp4", "[a-z].mp4", "back\\slash.mp4", "$(id).mp4", "`id`.mp4"),
    *("concat:a.mp4|b.mp4", "file:a.mp4", "http:a.mp4", "pipe:0", "data:,a.mp4", "crypto:a.mp4", "subfile,,:a.mp4"),
    *(
        "rtl\u202e4pm.mp4",
        "zero\u200bwidth.mp4",
        "ünï.mp4",
        "u\u0308ni.mp4",
        "CON.mp4",
        "end .mp4 ",
        "end.mp4.",
        " .mp4",
    ),
    os.fsdecode(b"latin\xe9.mp4"),
    os.fsdecode(b"\xff\xfe.mp4"),
)


@dataclass(frozen=True)
class Hostile:
    """One file and what reading it must come to: REFUSED, READABLE or EITHER."""

    path: Path
    verdict: str


def build(folder: Path) -> list[Hostile]:
    """Write the corpus into the empty `folder`; what the file system or the user's rights do not allow is left out."""
    makers = (_cuts, _forged_boxes, _flipped, _strangers, _empty, _giants, _endless, _bombs, _names, _links, _rights)
    found = []
    for maker in makers:
        home = folder / maker.__name__.strip("_")
        home.mkdir()
        found += list(maker(home))
    return found


def encode(form: str, codec: str, pixels: str, frames: int = FRAMES, **options: str) -> bytes:
    """A clip of a bright square that moves, in the container `form`."""
    with NamedTemporaryFile(suffix=".clip") as file, av.open(file.name, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        for index in range(frames):
            picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
            picture[8:24, index : index + 16] = 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
        container.close()  # "faststart" reads the file again by its name
        return Path(file.name).read_bytes()


def mp4(**options: str) -> bytes:
    """An H.264 clip; `movflags` as libavformat's muxer takes them."""
    return encode("mp4", "libx264", "yuv420p", **options)


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Every box of an mp4, the nested ones too: offset, size, type."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        yield start, size, kind
        if kind in BOXES:
            yield from boxes(data, start + 8, start + size)
        start += size


def elements(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Every EBML element of a webm, the nested ones too: where it and where its payload begins."""
    end = len(data) if end is None else end
    while start < end:
        wide = 9 - data[start].bit_length()
        body = start + wide
        long = 9 - data[body].bit_length()
        size = int.from_bytes(data[body : body + long], "big") & ((1 << 7 * long) - 1)
        yield start, body + long
        if int.from_bytes(data[start:body], "big") in MASTERS:
            yield from elements(data, body + long, body + long + size)
        start = body + long + size


def element(kind: int, payload: bytes | int | str) -> bytes:
    """One EBML element with an eight-byte size."""
    if isinstance(payload, int):
        payload = payload.to_bytes(8, "big")
    payload = payload.encode() if isinstance(payload, str) else payload
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + (len(payload) | 1 << 56).to_bytes(8, "big") + payload


def webm_head(codec: str, width: int, height: int) -> bytes:
    """An EBML header and a segment of unknown size with one track, as a live recording begins."""
    head = element(0x1A45DFA3, element(0x4282, "webm") + element(0x4287, 4) + element(0x4285, 2))
    video = element(0xE0, element(0xB0, width) + element(0xBA, height))
    track = element(0xAE, element(0xD7, 1) + element(0x73C5, 1) + element(0x83, 1) + element(0x86, codec) + video)
    info = element(0x1549A966, element(0x2AD7B1, 1_000_000))
    return head + b"\x18S\x80g\x01" + b"\xff" * 7 + info + element(0x1654AE6B, track)


def webm(codec: str, width: int, height: int, packets: list[bytes]) -> bytes:
    """A webm whose cluster holds `packets`, 62 ms apart, each called a key frame."""
    blocks = b"".join(
        element(0xA3, b"\x81" + (62 * index % 32768).to_bytes(2, "big") + b"\x80" + packet)
        for index, packet in enumerate(packets)
    )
    return webm_head(codec, width, height) + element(0x1F43B675, element(0xE7, 0) + blocks)


def _write(path: Path, data: bytes, verdict: str) -> Hostile:
    path.write_bytes(data)
    return Hostile(path, verdict)


def _cuts(home: Path) -> Iterator[Hostile]:
    """Cut inside and at the start of every box or element; a fragmented clip may end after any fragment."""
    clips = {"plain": mp4(), "fast": mp4(movflags="faststart")}
    for name, data in clips.items():
        points = {point for start, size, _ in boxes(data) for point in (start, start + 8, start + size // 2)}
        yield from (_write(home / f"{name}_{cut}.mp4", data[:cut], REFUSED) for cut in sorted(points))
    pieces = mp4(movflags="frag_every_frame+empty_moov")
    starts = sorted({start + 8 for start, _, _ in boxes(pieces)})
    yield from (_write(home / f"fragments_{cut}.mp4", pieces[:cut], EITHER) for cut in starts)
    data = encode("webm", "libvpx-vp9", "yuv420p")
    points = {point for start, body in elements(data) for point in (start, body, body + 1)} - {len(data)}
    yield from (_write(home / f"level_{cut}.webm", data[:cut], REFUSED) for cut in sorted(points) if cut < len(data))
    data = encode("gif", "gif", "rgb8")
    for cut in range(0, len(data) - 1, len(data) // 12):
        yield _write(home / f"cut_{cut}.gif", data[:cut], EITHER if data[:cut].endswith(b";") else REFUSED)


def _forged_boxes(home: Path) -> Iterator[Hostile]:
    """Sizes and counts that lie: every box in turn claims 4 GiB, nothing, or holds only ones."""
    data = mp4(movflags="faststart")
    for index, (start, size, kind) in enumerate(boxes(data)):
        name = f"{index:02d}_{kind.decode('latin-1').strip()}"
        huge, none = b"\xff\xff\xff\xff" + kind, b"\0\0\0\0" + kind
        for what, forged in ("huge", huge), ("none", none), ("wide", b"\0\0\0\1" + kind + b"\x7f" + b"\xff" * 7):
            yield _write(home / f"{name}_{what}.mp4", _at(data, start, forged), EITHER)
        if kind not in BOXES:
            yield _write(home / f"{name}_ones.mp4", _at(data, start + 8, b"\xff" * (size - 8)), EITHER)
            yield _write(home / f"{name}_count.mp4", _at(data, start + 12, b"\x7f\xff\xff\xff"), EITHER)
    nested = b"".join((8 * (10_000 - depth)).to_bytes(4, "big") + b"moov" for depth in range(10_000))
    yield _write(home / "nested.mp4", data[: int.from_bytes(data[:4], "big")] + nested, REFUSED)


def _at(data: bytes, position: int, new: bytes) -> bytes:
    return (data[:position] + new + data[position + len(new) :])[: len(data)]


def _flipped(home: Path) -> Iterator[Hostile]:
    """Random bytes in otherwise sound clips of three formats."""
    source = random.Random(4)
    clips = {".mp4": mp4(), ".webm": encode("webm", "libvpx-vp9", "yuv420p"), ".gif": encode("gif", "gif", "rgb8")}
    for suffix, data in clips.items():
        for index in range(12):
            forged = bytearray(data)
            for position in source.sample(range(len(data)), 1 + 4 * index):
                forged[position] = source.randrange(256)
            yield _write(home / f"flipped_{index}{suffix}", bytes(forged), EITHER)


def _strangers(home: Path) -> Iterator[Hostile]:
    """Other formats under a clip's name; a clip under another format's name is still a clip."""
    for kind in ("png", "jpeg", "webp", "bmp", "tiff", "ppm"):
        file = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(file, kind)
        yield _write(home / f"{kind}.mp4", file.getvalue(), REFUSED)
    for form, codec in (("avi", "mpeg4"), ("flv", "flv"), ("mpegts", "mpeg2video"), ("mpeg", "mpeg1video")):
        options = (form, codec, "yuv420p")
        yield _write(home / f"{form}.mp4", encode(*options) if form == "avi" else _at_25(*options), REFUSED)
    sound, packed = io.BytesIO(), io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("clip.mp4", mp4())
    texts = {
        "text.mp4": b"not a video",
        "page.webm": b"<!doctype html><title>404</title>",
        "list.mp4": b"#EXTM3U\n#EXTINF:1,\n../names/clip.mp4\n#EXT-X-ENDLIST\n",
        "address.mov": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        "concat.mkv": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "session.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nm=video 5004 RTP/AVP 96\n",
        "dash.mp4": b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
        "pointer.mp4": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "pickle.mp4": b"\x80\x04\x95cos\nsystem\n(S'id'\ntR.",
        "program.mkv": b"\x7fELF" + bytes(5000),
        "sound.mp4": sound.getvalue(),
        "packed.mp4": packed.getvalue(),
        "weights.mp4": (8).to_bytes(8, "little") + b'{"a": 1}',
    }
    yield from (_write(home / name, data, REFUSED) for name, data in texts.items())
    yield _write(home / "gif.mp4", encode("gif", "gif", "rgb8"), READABLE)
    yield _write(home / "webm.gif", encode("webm", "libvpx-vp9", "yuv420p"), READABLE)
    yield _write(home / "clip.txt", mp4(), READABLE)


def _at_25(form: str, codec: str, pixels: str) -> bytes:
    """MPEG-1 and -2 know no 16 frames a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(WIDTH, HEIGHT, pixels)))
        container.mux(stream.encode())
    return file.getvalue()


def _empty(home: Path) -> Iterator[Hostile]:
    for suffix in (".mp4", ".mov", ".mkv", ".webm", ".gif"):
        yield _write(home / f"empty{suffix}", b"", REFUSED)
    for count in (1, 7, 8, 16, 1 << 16, 1 << 20):
        yield _write(home / f"zeros_{count}.mp4", bytes(count), REFUSED)
    for name, magic in ("gif", b"GIF89a"), ("webm", b"\x1aE\xdf\xa3"), ("mp4", b"\0\0\0\x14ftypisom"):
        yield _write(home / f"magic.{name}", magic, REFUSED)


def _giants(home: Path) -> Iterator[Hostile]:
    """Headers that claim pictures of up to 100,000 × 100,000 and more, or none, in front of a few bytes."""
    packet = bytes(range(64))
    for codec in (
        "V_VP8",
        "V_VP9",
        "V_AV1",
        "V_MPEG4/ISO/AVC",
        "V_MPEGH/ISO/HEVC",
        "V_MPEG4/ISO/ASP",
        "V_UNCOMPRESSED",
    ):
        for width, height in ((100_000, 100_000), (2**31 - 1, 2), (2**40, 2**40), (0, 0)):
            name = f"{codec.replace('/', '_')}_{width}x{height}.webm"
            yield _write(home / name, webm(codec, width, height, [packet] * 3), REFUSED)
    vp8 = b"\x10\x02\x00\x9d\x01\x2a" + b"\xff\x3f\xff\x3f" + packet  # RFC 6386 section 9.1: 16,383 × 16,383
    yield _write(home / "vp8_inside.webm", webm("V_VP8", WIDTH, HEIGHT, [vp8] * 3), REFUSED)
    screen = b"GIF89a" + b"\xff\xff\xff\xff" + b"\x80\0\0" + bytes(6)  # 65,535 × 65,535
    picture = b"," + bytes(4) + b"\xff\xff\xff\xff\0" + b"\x02\x02\x4c\x01\0;"
    yield _write(home / "screen.gif", screen + picture, REFUSED)
    data = mp4(movflags="faststart")
    at = next(start for start, _, kind in boxes(data) if kind == b"tkhd")
    yield _write(home / "tkhd.mp4", _at(data, at + 84, b"\xff\xff\0\0" * 2), EITHER)
    yield _write(home / "avc1.mp4", _at(data, data.index(b"avc1") + 28, b"\xff" * 4), EITHER)


def _endless(home: Path) -> Iterator[Hostile]:
    """What never ends: pipes, devices, a terabyte of nothing behind a sound beginning, a loop counter of for ever."""
    os.mkfifo(home / "pipe.mp4")
    yield Hostile(home / "pipe.mp4", REFUSED)
    for device in ("zero", "urandom", "null", "full"):
        (home / f"{device}.mp4").symlink_to(f"/dev/{device}")
        yield Hostile(home / f"{device}.mp4", REFUSED)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(home, os.O_RDONLY)  # a socket's name has at most 107 bytes
        server.bind(f"/proc/self/fd/{here}/socket.mp4" if Path("/proc/self/fd").exists() else home / "socket.mp4")
        os.close(here)
    yield Hostile(home / "socket.mp4", REFUSED)
    loop = encode("gif", "gif", "rgb8", loop="0")
    assert b"NETSCAPE2.0" in loop
    yield _write(home / "loop.gif", loop, READABLE)
    heads = {
        "hole.webm": webm_head("V_VP9", WIDTH, HEIGHT),
        "hole.mp4": b"\0\0\0\x14ftypisom" + bytes(8),
        "hole.gif": encode("gif", "gif", "rgb8")[:-1],
    }
    for name, head in heads.items():
        if _sparse(home / name, head):
            yield Hostile(home / name, REFUSED)


def _sparse(path: Path, head: bytes) -> bool:
    """A terabyte that takes no room; False, and no file, where the file system has no holes or a lower limit."""
    path.write_bytes(head)
    try:
        os.truncate(path, TERABYTE)
    except OSError:
        path.unlink()
        return False
    return True


def _bombs(home: Path) -> Iterator[Hostile]:
    """Small files that unpack to much: one large picture within the cap, and many frames."""
    blank = b"\x02\x02\x4c\x01\0"
    screen = b"GIF89a" + (8192).to_bytes(2, "little") + (4320).to_bytes(2, "little") + b"\x80\0\0" + bytes(6)
    picture = b"," + bytes(4) + (8192).to_bytes(2, "little") + (4320).to_bytes(2, "little") + b"\0" + blank
    yield _write(home / "large.gif", screen + picture * 4 + b";", REFUSED)
    screen = b"GIF89a" + b"\x10\0\x10\0" + b"\x80\0\0" + bytes(6)
    delay, picture = b"!\xf9\x04\0\x06\0\0\0", b"," + bytes(4) + b"\x10\0\x10\0\0" + blank
    yield _write(home / "many.gif", screen + (delay + picture) * 8_000 + b";", REFUSED)


def _names(home: Path) -> Iterator[Hostile]:
    """Sound and empty clips under names that break shells, terminals, reports and address parsers."""
    data = mp4()
    (home / "deep").mkdir()
    yield _write(home / "clip.mp4", data, READABLE)
    yield Hostile(home / "deep" / ".." / "clip.mp4", READABLE)
    for path in (*(home / name for name in NAMES), *_long(home)):
        made = _try(lambda path=path: path.write_bytes(data))
        if made:
            yield Hostile(path, READABLE)
        bad = path.with_name(f"b{path.name}")
        if made and _try(lambda bad=bad: bad.write_bytes(b"")):
            yield Hostile(bad, REFUSED)
    yield Hostile(home / ("x" * 300 + ".mp4"), REFUSED)  # no common file system holds it: asked for all the same
    yield Hostile(home / ("x/" * 3000 + ".mp4"), REFUSED)
    yield Hostile(home / "null\0byte.mp4", REFUSED)


def _long(home: Path) -> Iterator[Path]:
    """Names as long as the file system allows: in one part, and in 300 characters over two."""
    longest = os.pathconf(home, "PC_NAME_MAX")
    yield home / ("n" * (longest - 5) + ".mp4")  # room for the letter of its bad twin
    folder = home / ("d" * 200)
    folder.mkdir()
    yield folder / ("e" * 100 + ".mp4")


def _try(action: Callable[[], object]) -> bool:
    try:
        action()
    except (OSError, ValueError):
        return False
    return True


def _links(home: Path) -> Iterator[Hostile]:
    (home / "folder.mp4").mkdir()
    _write(home / "folder.mp4" / "inside.mp4", mp4(), READABLE)
    targets = {
        "self": "self.mp4",
        "one": "two.mp4",
        "two": "one.mp4",
        "lost": "nowhere.mp4",
        "folder_link": "folder.mp4",
    }
    for name, target in targets.items():
        (home / f"{name}.mp4").symlink_to(target)
        yield Hostile(home / f"{name}.mp4", REFUSED)
    (home / "round").symlink_to(".")
    yield Hostile(home / "folder.mp4", REFUSED)
    yield Hostile(home / "missing.mp4", REFUSED)
    yield Hostile(home / "lost.mp4" / "below.mp4", REFUSED)
    (home / "good.mp4").symlink_to("folder.mp4/inside.mp4")
    yield Hostile(home / "good.mp4", READABLE)
    yield Hostile(home / "round" / "round" / "good.mp4", READABLE)


def _rights(home: Path) -> Iterator[Hostile]:
    """Files that may not be read; root may."""
    for mode in (0o000, 0o200, 0o100):
        path = home / f"mode_{mode:o}.mp4"
        path.write_bytes(mp4())
        path.chmod(mode)
        yield Hostile(path, READABLE if os.access(path, os.R_OK) else REFUSED)
