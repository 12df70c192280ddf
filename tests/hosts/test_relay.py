"""A child's words through the pipe: a flush returns when the parent has kept what came before it, not sooner."""

from __future__ import annotations

import threading
import time
from multiprocessing import Pipe

import pytest

from musubi_ext.hosts.relay import Relay


def test_a_flush_waits_for_its_answer() -> None:
    here, there = Pipe()
    heard: list[str] = []

    def parent() -> None:
        while True:
            _, method, _ = here.recv()
            time.sleep(0.2)
            heard.append(method)
            if method == "flush":
                here.send(None)
                return

    thread = threading.Thread(target=parent)
    thread.start()
    relay = Relay(there)
    relay.log_metrics({"loss": 1.0}, 1)
    relay.flush()
    assert heard == ["log_metrics", "flush"]
    thread.join()


def test_a_parent_that_is_gone_is_no_answer() -> None:
    here, there = Pipe()
    here.close()
    with pytest.raises((ConnectionError, EOFError)):
        Relay(there).flush()
    Relay(None).flush()
