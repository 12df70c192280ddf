"""The training benchmarks run, at sizes that measure nothing, and reckon right where the answer is known."""

from __future__ import annotations

import json
import math
import os
import threading
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from musubi_ext.errors import UserError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
needs_host = pytest.mark.skipif("MUSUBI_TUNER_HOME" not in os.environ, reason="no musubi-tuner: MUSUBI_TUNER_HOME")


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_table_is_replaced_between_its_markers_alone(tmp_path: Path) -> None:
    from tables import insert

    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x:start -->\nold\n<!-- x:end -->\n<!-- y:start -->\nkept\n<!-- y:end -->\n")
    insert(page, "x", r"new \1")
    assert page.read_text() == (
        "a\n<!-- x:start -->\nnew \\1\n<!-- x:end -->\n<!-- y:start -->\nkept\n<!-- y:end -->\n"
    )
    with pytest.raises(UserError, match="expected the markers"):
        insert(page, "z", "")


def test_every_marker_that_a_script_writes_is_in_the_document() -> None:
    page = (BENCHMARKS.parent / "docs" / "TRAINING_RESULTS.md").read_text(encoding="utf-8")
    for name in ("step_time", "memory", "convergence", "gpu_steps"):
        assert page.count(f"<!-- {name}:start -->") == page.count(f"<!-- {name}:end -->") == 1


def test_steps_to_a_loss_lie_on_the_line_between_two_validations() -> None:
    from convergence_table import steps_to

    history = [(0, 1.0), (10, 0.6), (20, 0.7), (30, 0.2)]
    assert steps_to(0.8, history) == pytest.approx(5)
    assert steps_to(0.6, history) == 10
    assert steps_to(0.45, history) == pytest.approx(25)
    assert steps_to(1.5, history) == 0
    assert steps_to(0.1, history) is None


def test_a_verdict_is_what_the_interval_supports() -> None:
    from convergence_table import verdict

    def row(low: float, high: float, final: float = 0.5) -> dict[str, object]:
        at = {"1.0": {"whole": {"median": final}}}
        return {"ratio": {"low": low, "median": low, "high": high}, "base": {"median": 1.0}, "at": at}

    assert verdict(row(0.3, 0.5)) == "met"
    assert verdict(row(0.7, 0.9)) == "missed"
    assert verdict(row(0.5, 0.9)) == "not decided"
    assert verdict(row(0.0, 0.0, final=1.2)).startswith("void")


def test_convergence_runs_and_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from convergence import main

    page = tmp_path / "page.md"
    page.write_text("<!-- convergence:start -->\n<!-- convergence:end -->\n")
    words = ["--out", str(tmp_path / "out"), "--seeds", "0", "--steps", "2", "--every", "1", "--clips", "4"]
    words += ["--holdout", "0.3", "--batch", "2", "--looks", "plain", "--starts", "specialised"]
    main([*words, "--markdown", str(page)])
    document = json.loads((tmp_path / "out" / "convergence.json").read_text())
    assert len(document["histories"]) == 4
    assert all([step for step, _ in run["history"]] == [0, 1, 2] for run in document["histories"])
    whole = [run["history"] for run in document["histories"] if run["recipe"] == "whole"]
    own = [run["history"] for run in document["histories"] if run["recipe"] == "own"]
    assert [history[0] for history in own] == [history[0] for history in whole]  # the same base, clips and noise
    assert own != whole
    assert "plain clips, specialised, high" in page.read_text()
    main(words)
    assert json.loads((tmp_path / "out" / "convergence.json").read_text()) == document


def test_turns_are_given_away_after_as_many_steps_as_were_asked_for() -> None:
    from taking_turns import Turn, _Baton, updates

    here, there = Pipe()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.register_step_post_hook(_Baton(4, there))

    def train() -> None:
        for _ in range(updates(turns=2, steps=4)):
            parameter.grad = torch.ones(1)
            optimizer.step()

    training = threading.Thread(target=train)
    training.start()
    turns: list[Turn] = []
    for _ in range(3):
        turns.append(here.recv())
        here.send(None)
    training.join(10)
    assert not training.is_alive()
    assert [len(turn.wall) for turn in turns] == [len(turn.cpu) for turn in turns] == [0, 4, 4]


def test_steps_on_a_gpu_need_one(tmp_path: Path) -> None:
    from gpu_steps import main

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        main(["--out", str(tmp_path)])


@needs_host
def test_random_weights_have_the_14b_experts_names_and_shapes() -> None:
    from gpu_steps import random_weight, upstream_shapes

    shapes = upstream_shapes({})
    assert sum(math.prod(shape) for shape in shapes.values()) == 14_288_901_184
    weight = random_weight("blocks.0.ffn.0.weight", torch.Size((8, 400)), "cpu", tiny=False)
    assert weight.dtype == torch.float8_e4m3fn
    assert weight.float().std() == pytest.approx(1 / 20, rel=0.1)


@needs_host
def test_a_phase_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    from gpu_steps import TINY_SIZES, Case, parser, phase_cost, words, write_weights
    from rich.console import Console

    args = parser().parse_args(["--tiny", "--out", str(tmp_path), "--steps", "3"])
    dit = write_weights(tmp_path / "tiny.safetensors", True, Console(quiet=True))
    case = Case("tiny", (64, 32), 5, 0, "ours")
    cost = phase_cost(words(args, case, dit), tmp_path / "log.txt", TINY_SIZES)
    assert len(cost.seconds) == 2
    assert not cost.out_of_memory
    assert cost.main_bytes > 100 << 20
