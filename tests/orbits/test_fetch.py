"""Fetching from a hub on this machine: what is asked for, what is on disk after it, and what a broken fetch leaves."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import REPOSITORY, Fault, Hub, serving

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.orbits.fetch.hub import Patience
from musubi_ext.orbits.fetch.listing import ALIASES, repository_of
from musubi_ext.orbits.fetch.paths import check_paths
from musubi_ext.orbits.fetch.plan import Plan
from musubi_ext.orbits.fetch.run import Outcome, Request, fetch, locked

BYTES = random.Random(0)
FILES = {
    "README.md": b"---\nlicense: cc-by-4.0\n---\n",
    "train/a b.mp4": BYTES.randbytes(300_000),
    "train/a b.txt": b"eye level, Circle Right->Left, a gray SUV",
    "train/ç.mp4": BYTES.randbytes(200_000),
    "empty.txt": b"",
}
QUICK = Patience(attempts=3, first=0.01, longest=0.5, timeout=5.0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import close_session, constants

    hub = Hub()
    hub.commit(FILES)
    with serving(hub):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield hub
        close_session()


class Watch:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.last: dict[str, tuple[int, int]] = {}
        self.notices: list[str] = []

    def found(self, plan: Plan) -> None:
        self.plan = plan

    def progress(self, stage: str, done: int, total: int) -> None:
        self.last[stage] = (done, total)

    def notice(self, text: str) -> None:
        self.notices.append(text)


def get(folder: Path, watch: Watch | None = None, dry_run: bool = False, **options: object) -> Outcome:
    request = Request(REPOSITORY, folder, **{"patience": QUICK, "workers": 2, **options})  # type: ignore[arg-type]
    return fetch(request, watch or Watch(), dry_run=dry_run)


def command(folder: Path, *words: str) -> int:
    return main(["data", "fetch", REPOSITORY, "--to", str(folder), *words])


def contents(folder: Path) -> dict[str, bytes]:
    """What the folder holds under final names, the record aside."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in paths.items() if name.split("/")[0] not in ("fetch.json", ".fetch")
    }


def record(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "fetch.json").read_text(encoding="utf-8")))


def test_a_fetch_brings_every_file_and_notes_the_commit(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, commit = tmp_path / "data" / "orbits", hub.branches["main"]
    assert command(folder) == 0
    out = capsys.readouterr().out
    assert f"{REPOSITORY} at {commit} (main)" in out
    assert "licence: cc-by-4.0" in out
    assert "5 files (500.1 kB), 0 of them are there" in out
    assert f'video_directory = "{folder}/train" (2 clips)' in out
    assert "musubi-ext data check" in out
    assert contents(folder) == FILES
    noted = record(folder)
    assert (noted["schema"], noted["repository"], noted["revision"]) == (1, REPOSITORY, "main")
    assert noted["commit"] == commit
    clip = {"path": "train/ç.mp4", "size": 200_000, "fetched": True}
    assert {**clip, "sha256": hashlib.sha256(FILES["train/ç.mp4"]).hexdigest()} in noted["files"]  # type: ignore[operator]
    readme = hashlib.sha1(b"blob %d\0" % len(FILES["README.md"]) + FILES["README.md"]).hexdigest()
    assert noted["files"][0]["blob_id"] == readme  # type: ignore[index]


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: Hub, tmp_path: Path) -> None:
    get(tmp_path / "d")
    assert {each.path: each.authorized for each in hub.sent} == {
        "README.md": True, "train/a b.txt": True, "train/a b.mp4": False, "train/ç.mp4": False
    }  # fmt: skip


def test_a_second_fetch_asks_the_hub_for_nothing(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "d"
    get(folder)
    before = (folder / "fetch.json").stat().st_mtime_ns
    hub.forget()
    assert command(folder) == 0
    assert "5 of them are there\n0 files (0 bytes) to be fetched" in capsys.readouterr().out
    assert (hub.sent, hub.listings) == ([], 0)
    assert (folder / "fetch.json").stat().st_mtime_ns == before


def test_a_cut_connection_goes_on_at_the_byte_it_had_reached(hub: Hub, tmp_path: Path) -> None:
    hub.faults["train/a b.mp4"] = Fault(cut=123_456)
    watch = Watch()
    assert not get(tmp_path / "d", watch).failures
    requests = [(each.start, each.count) for each in hub.sent if each.path == "train/a b.mp4"]
    assert requests == [(0, 123_456), (123_456, 300_000 - 123_456)]
    assert contents(tmp_path / "d") == FILES
    size = sum(map(len, FILES.values()))
    assert watch.last["fetching"] == (size, size)


def test_many_cuts_are_no_reason_to_give_up_while_bytes_come(hub: Hub, tmp_path: Path) -> None:
    hub.faults["train/a b.mp4"] = Fault(times=99, cut=50_000)
    assert not get(tmp_path / "d").failures
    starts = [each.start for each in hub.sent if each.path == "train/a b.mp4"]
    assert starts == list(range(0, 300_000, 50_000))


def test_what_a_failure_left_the_next_run_goes_on_with(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    hub.faults["train/a b.mp4"] = Fault(cut=123_456)
    failures = get(folder, patience=Patience(attempts=1)).failures
    assert list(failures) == ["train/a b.mp4"]
    assert "the connection broke" in failures["train/a b.mp4"]
    assert parts(folder) == [123_456]
    hub.forget()
    assert not get(folder).failures
    assert [(each.path, each.start) for each in hub.sent] == [("train/a b.mp4", 123_456)]
    assert contents(folder) == FILES


def test_parts_of_what_is_whole_or_of_another_commit_go(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    hub.faults["train/a b.mp4"] = Fault(cut=1000)
    hub.faults["train/ç.mp4"] = Fault(cut=1000)
    get(folder, patience=Patience(attempts=1))
    assert parts(folder) == [1000, 1000]
    (folder / "train" / "a b.mp4").write_bytes(FILES["train/a b.mp4"])  # from elsewhere
    hub.commit({name: content for name, content in FILES.items() if name != "train/ç.mp4"})
    assert not get(folder, update=True).failures
    assert not (folder / ".fetch").exists()


def test_a_server_without_ranges_sends_everything_again(hub: Hub, tmp_path: Path) -> None:
    hub.faults["train/ç.mp4"] = Fault(cut=100_000)
    hub.ignores_ranges = True
    watch = Watch()
    assert not get(tmp_path / "d", watch).failures
    requests = [(each.start, each.count) for each in hub.sent if each.path == "train/ç.mp4"]
    assert requests == [(0, 100_000), (100_000, 200_000)]
    assert contents(tmp_path / "d") == FILES
    size = sum(map(len, FILES.values()))
    assert watch.last["fetching"] == (size, size)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_fetch_ends_with_130_and_goes_on_at_the_same_commit(
    hub: Hub, tmp_path: Path, stop: signal.Signals
) -> None:
    folder, commit = tmp_path / "d", hub.branches["main"]
    hub.faults["train/a b.mp4"] = Fault(stall=150_000)  # the first file of this order
    hub.commits[commit] = dict(sorted(FILES.items(), key=lambda file: file[0] != "train/a b.mp4"))
    words = [sys.executable, "-m", "musubi_ext.cli", "data", "fetch", REPOSITORY, "--to", str(folder), "--workers", "1"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        wait_for(lambda: parts(folder) == [150_000])
        assert record(folder)["commit"] == commit  # before the first byte, not at the end
        process.send_signal(stop)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.splitlines() == ["what came is kept: the same command goes on from there", "interrupted"]
    assert parts(folder) == [150_000]
    assert not (folder / "train").exists()
    assert record(folder)["commit"] == commit
    hub.commit({**FILES, "README.md": b"newer"})
    hub.forget()
    assert not get(folder).failures
    assert contents(folder) == FILES
    assert hub.listings == 0
    assert [(each.start, each.count) for each in hub.sent if each.path == "train/a b.mp4"] == [(150_000, 150_000)]


def parts(folder: Path) -> list[int]:
    return [part.stat().st_size for part in (folder / ".fetch").glob("*.part")]


def wait_for(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


@pytest.mark.parametrize("fault", [Fault(wrong=True), Fault(longer=True)])
@pytest.mark.parametrize("name", ["train/ç.mp4", "train/a b.txt"])
def test_wrong_bytes_are_reported_not_kept_and_fetched_anew_by_the_next_run(
    hub: Hub, tmp_path: Path, name: str, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d"
    hub.faults[name] = Fault(wrong=fault.wrong, longer=fault.longer)
    assert command(folder) == 1
    out, err = capsys.readouterr()
    assert f"failed: {name}: " in err
    assert "4 of 5 files are there" in out
    assert contents(folder) == {path: content for path, content in FILES.items() if path != name}
    hub.forget()
    assert command(folder) == 0
    assert hub.requested() == [name]
    assert contents(folder) == FILES


def test_a_damaged_and_a_lost_file_are_mended_alone(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d"
    get(folder)
    hub.forget()
    clip, text = folder / "train" / "ç.mp4", folder / "train" / "a b.txt"
    clip.write_bytes(clip.read_bytes()[:-1] + b"!")
    text.unlink()
    assert command(folder) == 0
    assert "train/ç.mp4: differs from the commit's, to be fetched anew" in capsys.readouterr().out
    assert hub.requested() == ["train/a b.txt", "train/ç.mp4"]
    assert contents(folder) == FILES


def test_files_that_no_fetch_wrote_are_left_alone(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "README.md").write_bytes(b"mine")
    (folder / "train").mkdir()
    (folder / "train" / "a b.txt").write_bytes(b"mine too")
    (folder / "empty.txt").touch()
    before = contents(folder)
    with pytest.raises(UserError) as raised:
        get(folder)
    assert [problem.split(": ")[0] for problem in raised.value.problems] == [
        f"{folder}/README.md", f"{folder}/train/a b.txt"
    ]  # fmt: skip
    assert contents(folder) == before
    (folder / "README.md").unlink()
    (folder / "train" / "a b.txt").unlink()
    get(folder)
    hub.commit({"new.txt": b"new"})
    get(folder, update=True)
    assert contents(folder) == {"new.txt": b"new", "empty.txt": b""}  # the same as the hub's, but not written by us


def test_a_folder_stays_at_its_commit_until_it_is_told_to_move(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, first = tmp_path / "d", hub.branches["main"]
    get(folder)
    other = {name: content for name, content in FILES.items() if not name.startswith("train/a b")}
    second = hub.commit({**other, "README.md": b"second", "more/b.txt": b"b"}, branch="v2")
    assert command(folder, "--revision", "v2") == 2
    err = capsys.readouterr().err
    assert f"is pinned to main at commit {first}, --revision v2 is another (add --update" in err
    assert command(folder, "--revision", first) == 0
    assert main(["data", "fetch", "some/other", "--to", str(folder), "--update"]) == 2
    assert f"holds {REPOSITORY}, not some/other" in capsys.readouterr().err
    assert contents(folder) == FILES

    (folder / "train" / "a b.txt").write_bytes(b"edited")
    (folder / "train" / "mine.txt").write_bytes(b"mine")
    hub.forget()
    assert command(folder, "--revision", "v2", "--update") == 0
    out = capsys.readouterr().out
    assert "train/a b.mp4: not in this commit, to be removed" in out
    assert "train/a b.txt: not in this commit, changed since it was fetched: stays" in out
    own = {"train/a b.txt": b"edited", "train/mine.txt": b"mine"}
    assert contents(folder) == {**hub.commits[second], **own}
    assert hub.requested() == ["README.md", "more/b.txt"]
    assert (record(folder)["revision"], record(folder)["commit"]) == ("v2", second)
    hub.forget()
    assert command(folder) == 0
    assert hub.sent == []


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
