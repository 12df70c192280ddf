"""Fetching from a hub that refuses, lies or goes away, into folders that are full, linked elsewhere or in use."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from fetch_cases import FILES, QUICK, Watch, command, contents, get, parts, wait_for
from local_hub import REPOSITORY, Fault, Hub, serving

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.orbits.fetch.hub import Patience
from musubi_ext.orbits.fetch.listing import ALIASES, repository_of
from musubi_ext.orbits.fetch.paths import check_paths
from musubi_ext.orbits.fetch.run import locked

HOSTILE = ["../up.txt", "/etc/x", "a/../../b", "a\\b.mp4", "c:/x", "a//b", "./x", "new\nline", "x" * 300, "fetch.json",
           ".fetch/x", "README.md/below", "bell\x07", "README.md"]  # fmt: skip


def test_hostile_paths_are_named_together_and_nothing_is_written(hub: Hub, tmp_path: Path) -> None:
    hub.extra_paths = HOSTILE
    with pytest.raises(UserError) as raised:
        get(tmp_path / "deep" / "d")
    assert len(raised.value.problems) == len(HOSTILE)
    assert all(problem.isprintable() for problem in raised.value.problems)
    assert hub.sent == []
    assert list(tmp_path.iterdir()) == []


def test_usual_paths_may_become_files() -> None:
    check_paths(["a/b c.mp4", "a/..b", ".gitattributes", "日本/é‍.txt", "a/fetch.json", "x" * 255], "here")


@pytest.mark.parametrize("where", ["train", "train/a b.mp4"])
def test_a_link_out_of_the_folder_is_not_followed(hub: Hub, tmp_path: Path, where: str) -> None:
    folder, outside = tmp_path / "d", tmp_path / "outside"
    (folder / where).parent.mkdir(parents=True)
    outside.mkdir()
    (folder / where).symlink_to(outside)
    with pytest.raises(UserError, match=r"a link on the way leads out|expected a file, found a folder"):
        get(folder)
    assert list(outside.iterdir()) == []
    assert hub.sent == []


def test_a_record_that_was_tampered_with_is_refused(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    get(folder)
    path = folder / "fetch.json"
    whole = path.read_text(encoding="utf-8")
    for broken in (
        whole.replace("README.md", "../README.md"),
        whole[:100],
        "[]",
        whole.replace('"schema": 1', '"schema": 2'),
    ):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(UserError, match=r"fetch\.json: "):
            get(folder)
        assert path.read_text(encoding="utf-8") == broken
    path.unlink()
    hub.forget()
    assert not get(folder).failures
    assert hub.sent == []


ANSWERS = [
    ((404, {"X-Error-Code": "RepoNotFound"}, b"{}"), "has no such data set, or it is private"),
    ((401, {"X-Error-Code": "RepoNotFound"}, b"{}"), "has no such data set, or it is private"),
    ((401, {}, b"{}"), "refuses this account or token"),
    ((403, {"X-Error-Code": "GatedRepo"}, b"{}"), "gated: accept its terms at "),
    ((403, {}, b"{}"), "this account has no access"),
    ((404, {"X-Error-Code": "RevisionNotFound"}, b"{}"), "has no revision main"),
    ((403, {"X-Error-Message": "Access to this resource is disabled."}, b"{}"), "the hub has disabled it"),
    ((429, {"Retry-After": "86400"}, b"{}"), "too many requests (wait 86400 s"),
    ((429, {"ratelimit": '"api";r=0;t=4000'}, b"{}"), "too many requests (wait 4000 s"),
    ((400, {}, b"{}"), "answered 400"),
    ((200, {"Content-Type": "text/html"}, b"<html>sign in</html>"), "did not answer as a hub does"),
    ((200, {}, b"[]"), "did not answer as a hub does"),
    (
        (200, {}, b'{"id": "a/b", "sha": "main", "siblings": [{"rfilename": "x"}]}'),
        "expected a commit of 40 hex digits",
    ),
    ((200, {}, b'{"id": "a/b", "sha": "%s", "siblings": []}' % (b"0" * 40)), "has no files at main"),
]


@pytest.mark.parametrize(("answer", "said"), ANSWERS)
def test_what_the_hub_refuses_is_one_sentence(
    hub: Hub, tmp_path: Path, answer: tuple[int, dict[str, str], bytes], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.listing_answer = answer
    assert command(tmp_path / "d") == 2
    err = capsys.readouterr().err
    assert said in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert hub.listings == 1
    assert list(tmp_path.iterdir()) == []


def test_busy_servers_are_asked_again_but_not_for_ever(hub: Hub, tmp_path: Path) -> None:
    hub.listing_answer = (503, {}, b"{}")
    with pytest.raises(UserError, match="answered 503"):
        get(tmp_path / "d")
    assert hub.listings == QUICK.attempts


def test_a_short_rate_limit_is_waited_for_and_a_long_one_said(hub: Hub, tmp_path: Path) -> None:
    folder, name = tmp_path / "d", "train/a b.txt"
    hub.faults[name] = Fault(times=2, status=429, headers={"Retry-After": "0"})
    assert not get(folder).failures
    assert hub.requested().count(name) == 3
    (folder / name).unlink()
    hub.faults[name] = Fault(times=99, status=429, headers={"ratelimit": '"resolvers";r=0;t=7'})
    watch, began = Watch(), time.monotonic()
    with pytest.raises(UserError, match=r"too many requests \(wait 7 s"):
        get(folder, watch)
    assert time.monotonic() - began < 3
    assert watch.notices == []


def test_a_long_wait_is_announced_and_ends_when_the_run_stops() -> None:
    from httpx2 import Request as Asked
    from httpx2 import Response
    from huggingface_hub.errors import HfHubHTTPError

    from musubi_ext.orbits.fetch.hub import Retries

    answer = Response(429, headers={"Retry-After": "300"}, request=Asked("GET", "http://hub"))
    error, stop, said = HfHubHTTPError("429", response=answer), threading.Event(), list[str]()
    threading.Timer(0.05, stop.set).start()
    assert not Retries(Patience(), stop, said.append).again(error)
    assert said == ["the hub allows no more requests for now: waiting 300 s"]


def test_no_server_and_no_network_are_said(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert command(tmp_path / "d") == 2
    assert "HF_HUB_OFFLINE is set: nothing can be fetched (unset it)" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for endpoint, said in (
        ("http://127.0.0.1:9", "http://127.0.0.1:9: cannot be reached"),
        ("nonsense", "HF_ENDPOINT"),
    ):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert command(tmp_path / "d") == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_goes_away_ends_the_fetch_and_the_next_goes_on(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    with serving(gone := Hub()) as server:
        gone.commit(FILES)
        gone.faults["train/a b.mp4"] = Fault(stall=1000)

        def leave() -> None:
            wait_for(lambda: parts(folder) == [1000])
            server.shutdown()
            server.server_close()
            gone.released.set()

        leaving = threading.Thread(target=leave)
        leaving.start()
        with pytest.raises(UserError, match=r"cannot be reached: .*; 1 of 5 files came"):
            get(folder, endpoint=gone.url, workers=1)
        leaving.join()
    assert contents(folder) == {"README.md": FILES["README.md"]}
    assert not get(folder).failures
    assert contents(folder) == FILES
    assert "README.md" not in hub.requested()
    assert [each.start for each in hub.sent if each.path == "train/a b.mp4"] == [1000]


def test_a_silent_server_is_given_up(hub: Hub, tmp_path: Path) -> None:
    hub.faults["train/ç.mp4"] = Fault(times=9, stall=0)
    patience = Patience(attempts=2, first=0.01, longest=1.0, timeout=0.2)
    failures = get(tmp_path / "d", patience=patience).failures
    assert list(failures) == ["train/ç.mp4"]
    assert "no answer in time" in failures["train/ç.mp4"]


def test_one_file_that_fails_does_not_stop_the_others(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d"
    hub.faults["README.md"] = Fault(times=9, status=404, headers={"X-Error-Code": "EntryNotFound"})
    hub.faults["train/ç.mp4"] = Fault(times=9, status=403)
    assert command(folder) == 1
    out, err = capsys.readouterr()
    assert "failed: README.md: " in err
    assert "failed: train/ç.mp4: " in err
    assert "next: the same command" in out
    assert set(contents(folder)) == {"train/a b.mp4", "train/a b.txt", "empty.txt"}


def test_no_access_to_the_files_ends_at_once(hub: Hub, tmp_path: Path) -> None:
    for name in FILES:
        hub.faults[name] = Fault(times=9, status=401, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(UserError, match="gated: accept its terms"):
        get(tmp_path / "d", workers=1)
    assert len(hub.sent) == 1


def test_a_dry_run_writes_nothing(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.card = {}
    folder = tmp_path / "d"
    assert command(folder, "--dry-run") == 0
    out = capsys.readouterr().out
    assert f"{REPOSITORY} at {hub.branches['main']}" in out
    assert "licence: not stated by the repository" in out
    assert f"5 files (500.1 kB) would be fetched to {folder}" in out
    assert (list(tmp_path.iterdir()), hub.sent) == ([], [])
    get(folder)
    (folder / "README.md").write_bytes(b"damaged")
    hub.commit({"x.txt": b"x"})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert command(folder, "--update", "--dry-run") == 0
    assert "empty.txt: not in this commit, would be removed" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_include_names_some_and_a_later_fetch_the_rest(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    get(folder, include=("*.mp4",))
    assert set(contents(folder)) == {"train/a b.mp4", "train/ç.mp4"}
    with pytest.raises(UserError, match=r"--include \*.avi: matches none of 5 files \(such as README.md"):
        get(folder, include=("*.mp4", "*.avi"))
    hub.forget()
    get(folder)
    assert contents(folder) == FILES
    assert hub.requested() == ["README.md", "train/a b.txt"]


def test_too_little_room_is_said_before_anything_comes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(UserError, match=r"500.1 kB are needed, 1.0 kB are free \(make room"):
        get(tmp_path / "d")
    assert (list(tmp_path.iterdir()), hub.sent) == ([], [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_ends_the_fetch(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    name = "train/a b.mp4"
    get(folder, include=("*.txt",))
    part = folder / ".fetch"
    part.mkdir()
    digest = hashlib.sha256(FILES[name]).hexdigest()
    (part / f"{digest}.{hashlib.sha256(name.encode()).hexdigest()[:16]}.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="the disk is full"):
        get(folder, workers=1)
    assert not (folder / name).exists()


def test_one_fetch_at_a_time(hub: Hub, tmp_path: Path) -> None:
    with locked(tmp_path / "d"), pytest.raises(UserError, match="another fetch is writing there"):
        get(tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["https://huggingface.co/datasets/a/b", "--to", "d"], "a URL is no source"),
        (["circle-rotat", "--to", "d"], "aliases: circle-rotate"),
        (["a/b/c", "--to", "d"], "expected OWNER/NAME"),
        (["a/b", "--to", "d", "--workers", "0"], "--workers 0: expected at least 1"),
        (["a/b", "--to", "d", "--revision", ""], "--revision: expected a branch"),
        (["a/b"], "--to"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("d").exists()


def test_the_alias_is_the_data_set_of_circle_rotate() -> None:
    assert repository_of("circle-rotate") == ALIASES["circle-rotate"] == "jk1741391802/circle-rotate-dataset"
