"""Twenty SIGKILLs at random moments of both phases: twenty times the adapters of the uninterrupted run, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from types import ModuleType

import pytest
from host_data import make_data, train_words

KILLS = 20
STEPS = 12  # of each expert
BATCHES = 2 * STEPS * 2  # gradients are accumulated over two batches


def preload() -> None:
    """What every child would import anew: seconds each time."""
    from musubi_ext.hosts.musubi import trainer

    trainer.trainer_class("pocket-i2v")


def train(words: list[str], batches: int | None, log: str) -> None:
    """In a child: train, and after `batches` batches of both phases together die without a word."""
    preload()
    import torch

    from musubi_ext.hosts import loop
    from musubi_ext.wan_train_network import main

    torch.set_num_threads(1)
    done, original = 0, loop.TrainingLoop._batch

    def counted(self: loop.TrainingLoop, batch: object) -> None:
        nonlocal done
        original(self, batch)  # type: ignore[arg-type]
        done += 1
        if done == batches:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.TrainingLoop._batch = counted  # type: ignore[method-assign]
    with open(log, "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        raise SystemExit(main(words))


def run(
    context: multiprocessing.context.ForkServerContext, words: list[str], log: Path, kill: float | int | None
) -> int:
    """Exit status of a child: killed after so many batches (int), or so many seconds after its first file (float)."""
    child = context.Process(target=train, args=(words, kill if isinstance(kill, int) else None, str(log)))
    child.start()
    if isinstance(kill, float):
        out, deadline = Path(words[words.index("--output_dir") + 1]), time.monotonic() + 60
        while child.is_alive() and not (out.is_dir() and any(out.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(kill)
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode is not None
    return child.exitcode


@pytest.fixture(scope="module")
def data(host: ModuleType, tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "set", tiny_pipeline)


def test_twenty_kills(data: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["musubi_ext.hosts.musubi.trainer", "torch", "diffusers", "accelerate"])
    words = [
        *("--max_train_steps", str(STEPS), "--gradient_accumulation_steps", "2", "--lr_scheduler", "cosine"),
        *("--save_state_every_n_steps", "2", "--validate_every_n_steps", "5", "--resume", "auto"),
        *("--save_every_n_steps", "4"),
    ]

    def command(name: str) -> list[str]:
        return train_words(data, tiny_pipeline, tmp_path / name, *words)

    log = tmp_path / "log.txt"
    assert run(context, command("whole"), log, None) == 0, log.read_text()[-3000:]
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.safetensors")}
    rng, killed, same = random.Random(20), 0, 0
    for trial in range(KILLS):
        kill = rng.randrange(1, BATCHES) if trial % 2 else rng.uniform(0.0, 0.8)
        killed += run(context, command(f"trial{trial}"), log, kill) == -signal.SIGKILL
        assert run(context, command(f"trial{trial}"), log, None) == 0, log.read_text()[-3000:]
        same += _tensors(tmp_path / f"trial{trial}") == _tensors(tmp_path / "whole")
        assert {path.name for path in (tmp_path / f"trial{trial}").glob("*.safetensors")} == expected.keys()
        assert not list((tmp_path / f"trial{trial}").glob("*-state"))
    print(f"{killed} of {KILLS} were killed before they were done, {same} of {KILLS} ended bit-identical")
    assert killed >= KILLS * 3 // 4
    assert same == KILLS


def _tensors(folder: Path) -> dict[str, bytes]:
    """Every adapter's tensors; the metadata hold clock times, as upstream's do."""
    from musubi_ext.adapters.files import read_lora

    return {
        f"{path.name} {key}": value.numpy().tobytes()
        for path in sorted(folder.glob("*.safetensors"))
        for key, value in sorted(read_lora(path).tensors.items())
    }
