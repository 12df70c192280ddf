"""Two processes train both phases together, and go on together after all of them were killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from host_data import make_data, train_words

from musubi_ext.adapters.files import read_lora
from musubi_ext.adapters.pair import AdapterPair

WORDS = (
    "--max_train_steps",
    "9",
    "--resume",
    "auto",
    "--save_state_every_n_steps",
    "2",
    "--validate_every_n_steps",
    "4",
)


@pytest.fixture(scope="module")
def data(host: ModuleType, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "set", tiny_pipeline)


def launch(words: list[str]) -> subprocess.Popen[str]:
    """Start two processes in a session of their own, as torchrun does."""
    port = str(random.SystemRandom().randrange(20000, 40000))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    return subprocess.Popen(
        [*command, "-m", "musubi_ext.wan_train_network", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(words: list[str]) -> str:
    process = launch(words)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said[-4000:]
    return said


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name} {key}": value
        for path in sorted(folder.glob("orbit_[hl].safetensors"))
        for key, value in read_lora(path).tensors.items()
    }


def test_two_processes_train_a_pair_and_resume_together(data: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    whole = train_words(data, tiny_pipeline, tmp_path / "whole", *WORDS)
    said = finish(whole)
    assert "unused" not in said
    assert said.count("pair: ") == 1  # one of them speaks
    manifest = AdapterPair.load(tmp_path / "whole").manifest
    assert manifest["training"]["effective_batch"] == 2
    assert {entry["steps"] for entry in manifest["experts"].values()} == {9}
    history = manifest["training"]["validation"]["low"]
    assert [step for step, _ in history] == [0, 4, 8, 9]

    killed = train_words(data, tiny_pipeline, tmp_path / "killed", *WORDS)
    process, deadline = launch(killed), time.monotonic() + 120
    while not list((tmp_path / "killed").glob("orbit_h-*-state")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finish(killed)
    ours, theirs = tensors(tmp_path / "killed"), tensors(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list((tmp_path / "killed").glob("*-state"))


def test_other_processes_than_before_are_refused(data: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    from musubi_ext.wan_train_network import main

    words = train_words(data, tiny_pipeline, tmp_path / "out", *WORDS)
    assert main([*words, "--experts", "high"]) == 0
    process = launch([*words, "--experts", "high"])
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "processes 1 → 2" in said


def test_accelerate_that_starts_one_of_several_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from musubi_ext.wan_train_network import main

    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["--task", "pocket-i2v"]) == 2
    assert "torchrun --nproc_per_node" in capsys.readouterr().err


def test_two_runs_on_one_folder(
    data: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from musubi_ext.hosts.output_lock import locked
    from musubi_ext.wan_train_network import main

    words = train_words(data, tiny_pipeline, tmp_path / "out", "--max_train_steps", "1")
    with locked(tmp_path / "out"):
        assert main(words) == 2
    assert "another training is writing there" in capsys.readouterr().err
    assert main(words) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_no_room_for_a_state_ends_with_a_sentence_and_the_last_state_whole(
    data: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    from musubi_ext.hosts.states import read_state

    words = train_words(data, tiny_pipeline, tmp_path / "out", *WORDS, "--experts", "high")
    code = (
        "import resource, sys\n"
        "from musubi_ext.hosts import states\n"
        "original, count = states.States.write, 0\n"
        "def write(self, label, *rest):\n"
        "    if label == 'step00000006':\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "    return original(self, label, *rest)\n"
        "states.States.write = write\n"
        "from musubi_ext.wan_train_network import main\n"
        f"sys.exit(main({words!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("failed: ")
    assert "could not be written" in last
    assert "Traceback" not in done.stderr
    states = sorted((tmp_path / "out").glob("*-state"))
    assert [read_state(path).position.step for path in states] == [2, 4]
    assert not list((tmp_path / "out").glob(".*partial*"))
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert json.loads((states[-1] / "state.json").read_text())["position"]["step"] == 4
