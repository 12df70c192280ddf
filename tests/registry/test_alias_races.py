"""Two promotions at once, and promotions that are killed: never two champions, never none, and the loser is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from local_server import running_server
from mlflow import MlflowClient
from promoting_process import act

from musubi_ext.errors import UserError
from musubi_ext.registry import claims
from musubi_ext.registry.alias_moves import INTENT, Pointers
from musubi_ext.registry.claims import CLAIM, claimed
from musubi_ext.registry.promotion import history
from musubi_ext.registry.store import connect, experiment_id

pytestmark = pytest.mark.filterwarnings(
    # mlflow 3.17 uses a SQLAlchemy loader strategy that SQLAlchemy 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)

SCRIPT = Path(__file__).with_name("promoting_process.py")
ROUNDS = int(os.environ.get("MUSUBI_EXT_TORTURE", "5"))
SERVER_ROUNDS = 2 if ROUNDS <= 5 else ROUNDS

Ask = Callable[..., dict[str, Any]]


@contextmanager
def process(kind: str, uri: str, stale: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    """A process of `promoting_process.py` that has loaded everything."""
    command = [sys.executable, str(SCRIPT), kind, uri, str(stale)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
        child.stdin.close()
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def tell(child: subprocess.Popen[str], **order: Any) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps(order) + "\n")
    child.stdin.flush()


def answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    return dict(json.loads(child.stdout.readline()))


def new_model(client: MlflowClient, uri: str, name: str, *, champion: int | None, previous: int | None = None) -> str:
    """Three versions of one run, and the aliases given."""
    client.create_registered_model(name)
    run = client.create_run(experiment_id(client, "tests", uri)).info.run_id
    for _ in range(3):
        client.create_model_version(name, f"runs:/{run}/pair", run_id=run)
    for alias, number in (("champion", champion), ("previous", previous)):
        if number is not None:
            client.set_registered_model_alias(name, alias, str(number))
    return name


def left_over(client: MlflowClient, name: str) -> list[str]:
    return [key for key in client.get_registered_model(name).tags if key == INTENT or key.startswith(CLAIM)]


@contextmanager
def watched(client: MlflowClient, name: str) -> Iterator[list[Pointers]]:
    """Every state of the aliases that a third party could see meanwhile."""
    seen, over = [Pointers.now(client, name)], threading.Event()

    def look() -> None:
        while not over.is_set():
            now = Pointers.now(client, name)
            if now != seen[-1]:
                seen.append(now)
            time.sleep(0.002)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def race(uri: str, rounds: int) -> None:
    client = connect(uri)
    wins = {2: 0, 3: 0}
    with ExitStack() as stack:
        children = [stack.enter_context(process("race", uri)) for _ in range(2)]
        for number in range(rounds):
            name = new_model(client, uri, f"race-{number}", champion=1)
            with watched(client, name) as seen:
                for child, version in zip(children, (2, 3), strict=True):
                    tell(child, kind="promote", name=name, version=version, against=1)
                answers = [answer(child) for child in children]
            outcomes = sorted(found["outcome"] for found in answers)
            assert outcomes == ["overtaken", "promoted"], answers
            winner = 2 + [found["outcome"] for found in answers].index("promoted")
            told = next(found for found in answers if found["outcome"] == "overtaken")
            assert f"the champion is version {winner} now" in told["reasons"][0]
            assert Pointers.now(client, name) == Pointers(winner, 1)
            assert {state.champion for state in seen} <= {1, winner}, seen
            assert [(event.kind, event.version) for event in history(client, name)] == [("promotion", winner)]
            assert left_over(client, name) == []
            wins[winner] += 1
        print(f"{rounds} rounds of two promotions over {uri.partition(':')[0]}: won {wins}")


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(uri: str) -> None:
    race(uri, ROUNDS)


def test_the_same_over_a_server_which_has_no_lock(
    migrated_store: Path, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE", 1.0)
    with running_server(migrated_store, tmp_path, free_port) as server:
        race(server, SERVER_ROUNDS)
        kills(server, ["promote"], first=6, every=3, stale=1.0)


def kills(uri: str, kinds: list[str], first: int, every: int, stale: float = 60.0) -> int:
    """Kill a process before each write from `first` on; the next one finds a champion, and ends as if nothing was."""
    client, killed = connect(uri), 0
    with process("torture", uri, stale) as child:
        for kind in kinds:
            for write in range(first, 100, every):
                name = new_model(client, uri, f"{kind}-{write}", champion=1, previous=3)
                order = {"kind": kind, "name": name, "version": 2, "against": 1}
                tell(child, **order, kill=write)
                found = answer(child)
                now = Pointers.now(client, name)
                new = {"promote": 2, "rollback": 3}[kind]
                assert now.champion in (1, new), "two champions or none"
                if "died" not in found:
                    break
                assert found == {"died": 9}
                killed += 1
                if kind == "rollback" and now.champion == new:
                    continue_with = {"kind": "promote", "name": name, "version": 2, "against": new}
                    expected = Pointers(2, new)
                else:
                    continue_with, expected = order, {"promote": Pointers(2, 1), "rollback": Pointers(3, 1)}[kind]
                found = act(uri, continue_with)
                assert found["outcome"] in ("promoted", "already", "rolled back"), (write, found)
                assert Pointers.now(client, name) == expected, (kind, write)
                assert left_over(client, name) == [], (kind, write)
                events = [event.kind for event in history(client, name)]
                assert len(events) == len(set(events)), f"told twice: {events}"
                assert {"promote": "promotion", "rollback": "rollback"}[kind] in events
            else:
                pytest.fail("the process was never let live")
    return killed


def test_a_process_killed_before_any_of_its_writes_leaves_what_the_next_one_puts_right(uri: str) -> None:
    every = 1 if ROUNDS > 5 else 2
    assert kills(uri, ["promote", "rollback"], first=2, every=every) >= 14 // every


def test_a_claim_stands_in_the_way_until_it_is_stale(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(uri)
    new_model(client, uri, "orbit", champion=1)
    monkeypatch.setattr(claims, "PATIENCE", 0.3)
    client.set_registered_model_tag("orbit", f"{CLAIM}feed", '{"by": "ada on a server", "through": "server"}')
    with (
        pytest.raises(UserError, match=r"others move its aliases \(ada on a server, since unknown\)"),
        claimed(client, "orbit", uri),
    ):
        pass
    assert left_over(client, "orbit") == [f"{CLAIM}feed"]
    monkeypatch.setattr(claims, "PATIENCE", 10.0)
    monkeypatch.setattr(claims, "STALE", 0.3)
    started = time.monotonic()
    with claimed(client, "orbit", uri) as claim:
        assert left_over(client, "orbit") == [claim.key]
    assert 0.3 <= time.monotonic() - started < 5
    assert left_over(client, "orbit") == []


def test_who_lost_the_claim_or_took_too_long_writes_nothing_more(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(uri)
    new_model(client, uri, "orbit", champion=1)
    with claimed(client, "orbit", uri) as claim:
        claim.check()
        client.delete_registered_model_tag("orbit", claim.key)
        with pytest.raises(UserError, match="took this claim for dead"):
            claim.check()
    monkeypatch.setattr(claims, "BUDGET", -1.0)
    with claimed(client, "orbit", uri) as claim, pytest.raises(UserError, match="took too long"):
        claim.check()
