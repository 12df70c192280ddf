"""Fetching from a hub on this machine: what is asked for, what is on disk after it, and what a broken fetch leaves."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fetch_cases import FILES, Watch, command, contents, get, parts, record, wait_for
from local_hub import REPOSITORY, Fault, Hub

from musubi_ext.cli import main
from musubi_ext.errors import UserError
from musubi_ext.orbits.fetch.hub import Patience


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
