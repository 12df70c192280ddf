"""The local file: what was written survives, whatever dies; what was not written whole is not there."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musubi_ext.registry.events import Event, stretches
from musubi_ext.registry.spool import EVENTS, Spool, spools
from musubi_ext.registry.writer import Writer

KEY = "0" * 32


def session(**more: object) -> Event:
    return Event(KEY, "session", {"key": KEY, "attached": False, "resumed": False, **more})


def metric(step: int, run: str = KEY) -> Event:
    return Event(run, "metrics", {"loss": float(step)}, step)


def read(spool: Spool) -> list[int]:
    return [event.step for event, _, _ in spool.unread() if event is not None and event.kind == "metrics"]


def test_a_line_comes_back_as_it_went() -> None:
    event = Event(KEY, "metrics", {"loss": float("nan"), "lr": 1e-300, "ünïcode\n": float("-inf")}, 7, 123)
    line = event.line()
    assert line.count(b"\n") == 1
    back = Event.read(line)
    assert back is not None
    assert (back.run, back.step, back.time, back.content["lr"]) == (KEY, 7, 123, 1e-300)
    assert (back.content["loss"], float(back.content["ünïcode\n"])) == ("nan", float("-inf"))
    assert Event.read(line[:-5]) is None
    assert Event.read(b"\0" * 40) is None


def test_metrics_of_any_runs_go_together_and_everything_else_alone() -> None:
    events = [session(), metric(1), metric(1, "x"), metric(2), Event(KEY, "tags", {"a": "b"}), None, metric(3)]
    lines = [(event, place * 10, place * 10 + 10) for place, event in enumerate(events)]
    found = stretches(lines)
    assert [[event.step for event in stretch.events] for stretch in found] == [[0], [1, 1, 2], [0], [], [3]]
    assert [(stretch.start, stretch.end) for stretch in found] == [(0, 10), (10, 40), (40, 50), (50, 60), (60, 70)]


def test_an_unfinished_line_is_cut_off_and_a_damaged_one_stepped_over(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, KEY)
    spool.append([session(), metric(1)])
    spool.release()
    with open(spool.path / EVENTS, "ab") as file:
        file.write(b"\0" * 20 + b"\r\n" + metric(2).line() + metric(3).line()[:-9])
    spool = Spool.create(tmp_path, KEY)
    assert spool.contents.damaged == 1
    spool.append([metric(4)])
    assert read(spool) == [1, 2, 4]
    assert spool.unsent == 3


def test_acknowledged_events_are_not_read_again(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, KEY)
    spool.append([session(), *(metric(step) for step in range(5))])
    spool.acknowledge(spool.unread()[2][2], 2)
    spool.release()
    spool = Spool.create(tmp_path, KEY)
    assert read(spool) == [2, 3, 4]
    assert (spool.unsent, spool.contents.delivered) == (3, 2)
    assert spool.contents.left_open() == [KEY]
    spool.append([Event(KEY, "status", {"status": "KILLED"}), Event(KEY, "end", {})])
    spool.acknowledge(spool.contents.size + 1000, 4)  # as a power cut leaves it: the file is shorter than was sent
    spool.close()
    assert not spool.path.exists()


def test_after_a_power_cut_the_file_may_be_shorter_than_what_was_sent(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, KEY)
    spool.append([session(), metric(1), metric(2)])
    spool.acknowledge(spool.unread()[-1][2], 2)
    spool.release()
    events = (spool.path / EVENTS).read_bytes().splitlines(keepends=True)
    (spool.path / EVENTS).write_bytes(b"".join(events[:2]))
    spool = Spool.create(tmp_path, KEY)
    spool.append([metric(3)])
    assert read(spool) == [3]


def test_a_held_folder_is_left_alone(tmp_path: Path) -> None:
    first = Spool.create(tmp_path, KEY)
    assert Spool.open(first.path) is None
    second = Spool.create(tmp_path, KEY)
    assert second.path.name == f"{KEY}-2"
    assert spools(tmp_path) == [first.path, second.path]


@pytest.fixture
def small_files() -> object:
    """Files may grow by so many bytes from now on: as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_stops_nothing_and_loses_nothing_once_there_is_room(
    tmp_path: Path, small_files: object, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool.create(tmp_path, KEY)
    spool.append([session(), metric(1)])
    writer = Writer(spool)
    small_files((spool.path / EVENTS).stat().st_size + 30)  # type: ignore[operator]
    writer.put(metric(2))
    writer.put(metric(3))
    assert writer.flush(10)
    assert read(spool) == [1]
    assert (spool.path / EVENTS).read_bytes().endswith(b"\n")  # what fitted of the line was taken back
    assert "MLflow events wait in memory" in caplog.text
    small_files(resource.RLIM_INFINITY)  # type: ignore[operator]
    writer.close()
    assert read(spool) == [1, 2, 3]


TELLER = """
import sys
from pathlib import Path
from musubi_ext.registry.events import Event
from musubi_ext.registry.spool import Spool
from musubi_ext.registry.writer import Writer
key = "0" * 32
writer = Writer(Spool.create(Path(sys.argv[1]), key))
writer.put(Event(key, "session", {"key": key, "attached": False, "resumed": False}))
step = 0
while True:
    step += 1
    writer.put(Event(key, "metrics", {"loss": 1.0}, step))
    if step % 100 == 0:
        writer.flush(60)
        print(step, flush=True)
"""


def test_sigkill_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", TELLER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        process.kill()
        rest = process.stdout.read().splitlines()
    flushed = int(rest[-1]) if rest else 100
    spool = Spool.create(tmp_path, KEY)
    assert spool.path.name == KEY  # the dead process holds nothing
    found: list[int] = []
    while lines := spool.unread():
        found += [event.step for event, _, _ in lines if event is not None and event.kind == "metrics"]
        spool.acknowledge(lines[-1][2], 0)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= flushed
