"""From the options to the phases of a run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from musubi_ext.errors import UserError
from musubi_ext.schedule.experts import Expert
from musubi_ext.schedule.plan import phases, validation_timesteps
from musubi_ext.schedule.timesteps import density


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    for name in ("low.safetensors", "high.safetensors"):
        (tmp_path / name).touch()
    return Namespace(
        task="i2v-A14B",
        dit=str(tmp_path / "low.safetensors"),
        dit_high_noise=str(tmp_path / "high.safetensors"),
        output_name="orbit",
        max_train_steps=1600,
    )


def test_two_phases_high_first(options: Namespace) -> None:
    high, low = phases(options)
    assert (high.expert, high.output_name, high.low, high.high) == (Expert.HIGH, "orbit_h", 0.9, 1.0)
    assert (low.expert, low.output_name, low.low, low.high) == (Expert.LOW, "orbit_l", 0.0, 0.9)
    assert (high.dit, low.dit) == (options.dit_high_noise, options.dit)
    assert (high.steps, high.epochs) == (1600, None)


def test_one_expert_needs_one_set_of_weights(options: Namespace) -> None:
    options.experts, options.dit = "high", None
    assert [phase.expert for phase in phases(options)] == [Expert.HIGH]


def test_epochs_take_precedence_over_steps(options: Namespace) -> None:
    options.max_train_epochs = 3
    assert [(phase.steps, phase.epochs) for phase in phases(options)] == [(None, 3)] * 2


def test_the_whole_range_is_the_recipe_of_circle_rotate(options: Namespace) -> None:
    options.min_timestep, options.max_timestep = 0, 1000
    assert [(phase.low, phase.high) for phase in phases(options)] == [(0.0, 1.0)] * 2
    assert all(t >= 0.9 for t in phases(options)[0].validation_timesteps())


def test_a_range_where_the_expert_never_runs_is_refused(options: Namespace) -> None:
    options.min_timestep, options.max_timestep = 900, 1000
    with pytest.raises(UserError, match="low-noise expert runs in 0 to 900 only"):
        phases(options)
    options.experts = "high"
    assert len(phases(options)) == 1


def test_every_mistake_at_once(options: Namespace) -> None:
    options.task, options.output_name, options.max_train_steps = "i2v", "a/b", 0
    options.dit, options.dit_high_noise = None, "absent.safetensors"
    with pytest.raises(UserError) as told:
        phases(options)
    for word in ("--task i2v", "--output_name", "--dit: missing", "--dit_high_noise: absent", "--max_train_steps"):
        assert any(word in problem for problem in told.value.problems), word


def test_one_file_for_both_experts_is_a_mistake_but_a_pipeline_folder_is_not(options: Namespace) -> None:
    options.dit_high_noise = options.dit
    with pytest.raises(UserError, match="two experts have weights of their own"):
        phases(options)
    options.dit = options.dit_high_noise = str(Path(options.dit).parent)
    assert len(phases(options)) == 2


def test_validation_timesteps_are_cell_midpoints() -> None:
    assert validation_timesteps(Expert.LOW, 0.9) == pytest.approx([0.05 + 0.1 * cell for cell in range(9)])
    assert validation_timesteps(Expert.HIGH, 0.9) == pytest.approx([0.9 + 0.1 * (cell + 0.5) / 9 for cell in range(9)])
    law = density("shift", shift=8.0)
    weighted = validation_timesteps(Expert.LOW, 0.9, law, count=4)
    assert law.cdf(weighted) / law.cdf(0.9) == pytest.approx([0.125, 0.375, 0.625, 0.875], rel=1e-5)
