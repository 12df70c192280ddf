"""The cache of versions: downloaded once, whole or absent, and refused where a bit is not what was registered."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.registry.downloads import cache_root, cached, content_key
from musubi_ext.registry.model import load_pair, register_pair
from musubi_ext.registry.stamps import settled, stamp
from musubi_ext.registry.store import connect
from musubi_ext.registry.versions import checksums
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import sha256

NAME = "circle-rotate"


@pytest.fixture
def version_key(pair: AdapterPair, uri: str) -> str:
    """Key in the cache of the files of version 1, which is registered and not yet downloaded."""
    register_pair(pair, NAME, uri=uri)
    return content_key(checksums(connect(uri).get_model_version(NAME, "1")))


def flip(path: Path) -> None:
    """Change one bit of a read-only file and leave it as old as it was."""
    before = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_key_is_what_sha256sum_prints_of_the_folder(pair: AdapterPair, version_key: str, uri: str) -> None:
    folder = load_pair(f"{NAME}/1", uri=uri).path.parent
    listing = subprocess.run(["sha256sum", *sorted(os.listdir(folder))], cwd=folder, capture_output=True, check=True)
    both = subprocess.run(["sha256sum"], input=listing.stdout, capture_output=True, check=True)
    assert folder == cache_root() / version_key
    assert both.stdout.decode().split()[0] == version_key


def test_a_second_load_asks_the_artifact_store_for_nothing(pair: AdapterPair, version_key: str, uri: str) -> None:
    first = load_pair(f"{NAME}/1", uri=uri)
    Path("mlartifacts").rename("elsewhere")
    second = load_pair(f"{NAME}/1", uri=uri)
    assert second.path == first.path
    assert second.state_dict(Expert.LOW).keys() == pair.state_dict(Expert.LOW).keys()
    assert not any(file.stat().st_mode & 0o222 for file in second.path.parent.iterdir())


def test_versions_of_the_same_files_share_a_folder(pair: AdapterPair, version_key: str, uri: str) -> None:
    register_pair(pair, "other", uri=uri)
    assert load_pair("other/1", uri=uri).path == load_pair(f"{NAME}/1", uri=uri).path


@pytest.mark.parametrize("name", ["orbit.pair.json", "orbit_h.safetensors", "orbit_l.safetensors"])
def test_one_bit_changed_in_the_cache_is_refused_with_both_hashes(
    pair: AdapterPair, version_key: str, uri: str, name: str
) -> None:
    file = load_pair(f"{NAME}/1", uri=uri).path.with_name(name)
    expected = sha256(file)
    flip(file)
    for _ in range(2):  # its new stamp is that of a file to be refused
        with pytest.raises(UserError, match=f"{name}: changed .* expected sha256 {expected}, found {sha256(file)}"):
            load_pair(f"{NAME}/1", uri=uri)


def test_what_a_cleaner_took_is_downloaded_again(pair: AdapterPair, version_key: str, uri: str) -> None:
    file = load_pair(f"{NAME}/1", uri=uri).path.with_name("orbit_h.safetensors")
    file.unlink()
    assert load_pair(f"{NAME}/1", uri=uri).path.with_name("orbit_h.safetensors").is_file()


def test_a_download_that_was_killed_is_not_used_and_cleared_away(pair: AdapterPair, version_key: str, uri: str) -> None:
    part = cache_root() / f"{version_key}.part-0badc0de"
    part.mkdir(parents=True)
    (part / "orbit_h.safetensors").write_bytes(b"half")
    os.utime(part, (time.time() - 7200, time.time() - 7200))
    load_pair(f"{NAME}/1", uri=uri)
    assert sorted(path.name for path in cache_root().iterdir()) == [version_key, f"{version_key}.json"]


def test_a_damaged_store_leaves_nothing_in_the_cache(pair: AdapterPair, version_key: str, uri: str) -> None:
    flip(next(Path("mlartifacts").rglob("artifacts/orbit_h.safetensors")))
    with pytest.raises(UserError, match=r"orbit_h\.safetensors changed since it was registered"):
        load_pair(f"{NAME}/1", uri=uri)
    assert list(cache_root().iterdir()) == []


def test_two_processes_that_load_at_once_both_get_the_pair(pair: AdapterPair, version_key: str, uri: str) -> None:
    code = (
        "import sys; from musubi_ext.registry.model import load_pair; from musubi_ext.schedule.experts import Expert;"
        "print('ready', flush=True); sys.stdin.readline();"
        "print(len(load_pair(sys.argv[1], uri=sys.argv[2]).state_dict(Expert.HIGH)))"
    )
    words = [sys.executable, "-W", "ignore", "-c", code, f"{NAME}/1", uri]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(words, text=True, **pipes) for _ in range(2)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate() for process in running]
    assert [out.strip() for out, _ in answers] == [str(len(pair.state_dict(Expert.HIGH)))] * 2, answers
    assert sorted(path.name for path in cache_root().iterdir()) == [version_key, f"{version_key}.json"]


def test_a_cache_that_cannot_be_made_is_said(
    pair: AdapterPair, version_key: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("in the way")
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(Path("file").absolute()))
    client = connect(uri)
    with pytest.raises(UserError, match="MUSUBI_EXT_CACHE"):
        cached(client, client.get_model_version(NAME, "1"))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own" / "registry"
    monkeypatch.delenv("MUSUBI_EXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "musubi-ext" / "registry"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_root() == tmp_path / "me" / ".cache" / "musubi-ext" / "registry"


def test_a_stamp_fits_until_the_file_is_touched(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 100)
    noted = stamp(file)
    assert settled(file, noted)
    assert noted["sha256"] == sha256(file)
    flip(file)
    assert not settled(file, noted)
    again = stamp(file)
    replaced = tmp_path / "replaced"
    replaced.write_bytes(file.read_bytes())
    os.replace(replaced, file)
    assert not settled(file, again)


@pytest.mark.parametrize("noted", [None, [], "x", {}, {"taken_ns": "now"}, {"sha256": 1, "taken_ns": 2}])
def test_what_is_no_stamp_fits_nothing(tmp_path: Path, noted: object) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a")
    assert not settled(file, noted)
    forged = {**stamp(file), "taken_ns": file.stat().st_ctime_ns}  # within the tick of the last change
    assert not settled(file, forged)
