"""The embedded host trains: exactly reproducible, inside the expert's range, into files that other programs read."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from musubi_ext.adapters.files import LoraFile, read_lora
from musubi_ext.errors import UserError
from musubi_ext.hosts.arguments import parse
from musubi_ext.hosts.endings import DivergedError
from musubi_ext.hosts.pocket import PocketTrainer
from musubi_ext.hosts.pocket_model import add_lora, load_expert, lora_layers, pad_text, text_tokens
from musubi_ext.hosts.resolve import Job, resolve
from musubi_ext.hosts.seam import NoTracking
from musubi_ext.schedule.experts import Expert

JobOf = Callable[..., Job]


class Recorder(NoTracking):
    """A tracker and progress display that remembers."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.steps: list[int] = []
        self.tags: dict[str, Any] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((step, dict(metrics)))

    def update(self, step: int, total: int, loss: float) -> None:
        self.steps.append(step)

    def set_tags(self, tags: dict[str, Any]) -> None:
        self.tags.update(tags)

    def of(self, name: str) -> list[float]:
        return [values[name] for _, values in self.metrics if name in values]


def train(job: Job, kind: type[PocketTrainer] = PocketTrainer, recorder: Any = None) -> tuple[LoraFile, PocketTrainer]:
    recorder = recorder or Recorder()
    trainer = kind(job.phase, job.data, recorder, recorder)
    return read_lora(trainer.train(Namespace(**vars(job.args)))), trainer


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def plain(words_of: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What three updates with the defaults make."""
    words = words_of(tmp_path_factory.mktemp("plain") / "out", "--experts", "high")
    return train(resolve(parse(words)).jobs[0])[0].tensors


def test_the_same_seed_writes_the_same_bytes_with_and_without_validation(job: JobOf, plain: dict[str, Tensor]) -> None:
    again, first = train(job())
    content = job().path.read_bytes()
    train(job())
    assert job().path.read_bytes() == content
    assert same(again.tensors, plain)
    assert len(first.validations) == 2
    often = train(job("--validate_every_n_steps", "1"))
    assert len(often[1].validations) == 4
    assert same(often[0].tensors, again.tensors)
    assert not same(train(job("--seed", "7"))[0].tensors, again.tensors)


@pytest.mark.parametrize("expert", list(Expert))
@pytest.mark.parametrize("whole", [False, True])
def test_every_timestep_lies_in_the_phase_s_range(job: JobOf, expert: Expert, whole: bool) -> None:
    seen: list[Tensor] = []

    class Watching(PocketTrainer):
        def call_dit(self, *args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                args_noise, args_noisy, timesteps = args[5], args[6], args[7]
                t = ((timesteps - 1) / 1000).view(-1, 1, 1, 1, 1)
                torch.testing.assert_close(args_noisy, (1 - t) * args[3] + t * args_noise, rtol=1e-4, atol=1e-4)
                seen.append(timesteps)
            return super().call_dit(*args, **kwargs)

    words = ["--experts", expert.value, "--max_train_steps", "12", *(["--full_range"] if whole else [])]
    made, _ = train(job(*words), Watching)
    low, high = (0, 1000) if whole else {Expert.HIGH: (900, 1000), Expert.LOW: (0, 900)}[expert]
    drawn = torch.cat(seen) - 1
    assert low - 1e-3 <= drawn.min()
    assert drawn.max() <= high + 1e-3
    assert whole == bool(drawn.min() < 900 < drawn.max())
    assert (float(made.metadata["ss_min_timestep"]), float(made.metadata["ss_max_timestep"])) == (low, high)
    assert made.metadata["ss_expert"] == expert.value
    assert made.metadata["ss_timestep_boundary"] == "0.9"


def test_the_loss_falls_on_clips_seen_often(job: JobOf) -> None:
    recorder = Recorder()
    chosen = job("--max_train_steps", "60", "--learning_rate", "1e-2", "--network_alpha", "4")
    _, trainer = train(chosen, recorder=recorder)
    losses = recorder.of("loss")
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert recorder.steps == list(range(1, 61))
    assert recorder.of("lr") == [1e-2] * 60
    validation = recorder.of("val/loss")
    assert validation[-1] < validation[0]
    assert all(0.9 <= t <= 1 for t in recorder.of("timestep/mean"))
    assert trainer.extra_step_logs(chosen.args, {})["val/loss"] == validation[-1]


class FixedNoise(PocketTrainer):
    """Noise and timestep of a clip follow from the clip, so that a batch can be cut in two."""

    def get_noisy_model_input_and_timesteps(
        self, args: Namespace, noise: Tensor, latents: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        noise.copy_(latents.flip(-1).sign())
        t = torch.full((len(latents),), 0.95)
        return 0.05 * latents + 0.95 * noise, 1000 * t + 1


@pytest.mark.parametrize("clip", ["0", "0.01"])
def test_accumulated_gradients_equal_the_large_batch(job: JobOf, clip: str) -> None:
    words = ("--optimizer_type", "SGD", "--learning_rate", "10", "--max_grad_norm", clip)
    large = job(*words)
    (dataset,) = large.data.datasets
    small = job(*words, "--gradient_accumulation_steps", "2")
    halved = replace(small, data=replace(small.data, datasets=(replace(dataset, batch_size=2),)))
    expected, accumulated = train(large, FixedNoise)[0].tensors, train(halved, FixedNoise)[0].tensors
    for key, tensor in expected.items():
        torch.testing.assert_close(accumulated[key], tensor, rtol=1e-4, atol=1e-6)
    moved = [key for key in expected if key.endswith("lora_up.weight") and expected[key].abs().max() > 1e-4]
    assert moved


def test_the_adapter_starts_as_the_hosts_lora_does(tiny_pipeline: Path) -> None:
    model = load_expert(tiny_pipeline / "transformer", torch.device("cpu"))
    torch.manual_seed(0)
    add_lora(model, 4, 1.0)
    layers = list(lora_layers(model))
    assert len(layers) == 10 * 2
    for _, down, up, alpha in layers:
        assert not up.any()
        assert alpha == 1
        bound = down.shape[1] ** -0.5  # kaiming_uniform_ with a = sqrt(5)
        assert 0.5 * bound < down.abs().max() <= bound
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * len(layers)


def test_an_alpha_of_zero_means_the_rank(job: JobOf) -> None:
    tensors = train(job("--network_alpha", "0"))[0].tensors
    assert {tensor.item() for key, tensor in tensors.items() if key.endswith("alpha")} == {4.0}


def test_checkpoints_have_upstreams_names(job: JobOf) -> None:
    chosen = job("--max_train_epochs", "3", "--save_every_n_epochs", "1", "--save_every_n_steps", "2")
    last = train(chosen)[0]
    names = {path.name for path in chosen.path.parent.iterdir()}
    checkpoints = {"orbit_h-000001.safetensors", "orbit_h-000002.safetensors", "orbit_h-step00000002.safetensors"}
    assert names == checkpoints | {"orbit_h.safetensors"}
    assert (last.metadata["ss_steps"], last.metadata["ss_epoch"]) == ("3", "3")
    assert last.metadata["ss_finished"] == "true"
    early = read_lora(chosen.path.with_name("orbit_h-000001.safetensors"))
    assert "ss_finished" not in early.metadata
    assert not same(early.tensors, last.tensors)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # torch's rms_norm in bf16
def test_bf16_trains_close_to_float32(job: JobOf) -> None:
    full, half = Recorder(), Recorder()
    train(job(), recorder=full)
    train(job("--mixed_precision", "bf16"), recorder=half)
    assert half.of("loss") != full.of("loss")
    assert half.of("loss") == pytest.approx(full.of("loss"), rel=0.03)


def test_gradient_checkpointing_changes_nothing(job: JobOf, plain: dict[str, Tensor]) -> None:
    saved = train(job("--gradient_checkpointing", "--gradient_checkpointing_cpu_offload"))[0].tensors
    for key in plain:
        torch.testing.assert_close(saved[key], plain[key], rtol=1e-5, atol=1e-7)


def test_half_precision_files(job: JobOf) -> None:
    tensors = train(job("--save_precision", "fp16"))[0].tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


@pytest.mark.parametrize(
    "words",
    [
        ("--weighting_scheme", "sigma_sqrt"),
        ("--network_args", "loraplus_lr_ratio=4"),
        ("--lr_scheduler", "cosine", "--lr_warmup_steps", "0.5"),
        ("--timestep_sampling", "flux_shift"),
        ("--timestep_sampling", "logsnr"),
        ("--optimizer_type", "torch.optim.RMSprop", "--optimizer_args", "momentum=0.9"),
        ("--max_grad_norm", "1e-6"),
    ],
)
def test_a_flag_that_is_honoured_changes_the_adapter(
    job: JobOf, words: tuple[str, ...], plain: dict[str, Tensor]
) -> None:
    assert not same(plain, train(job(*words))[0].tensors)


def test_warm_up_and_schedule(job: JobOf) -> None:
    recorder = Recorder()
    train(job("--lr_scheduler", "linear", "--lr_warmup_steps", "2", "--max_train_steps", "6"), recorder=recorder)
    assert recorder.of("lr") == pytest.approx([0, 1e-3, 2e-3, 1.5e-3, 1e-3, 5e-4])


def test_a_loss_that_is_no_number_stops_the_training(job: JobOf) -> None:
    chosen = job("--learning_rate", "1e30", "--optimizer_type", "SGD", "--max_grad_norm", "0")
    with pytest.raises(DivergedError, match=r"high expert.*lower --learning_rate"):
        train(chosen)
    assert not chosen.path.exists()


def test_nothing_left_to_train_on_is_said(job: JobOf) -> None:
    chosen = job()
    empty = replace(chosen.data, datasets=(replace(chosen.data.datasets[0], cache_directory=Path("nowhere")),))
    with pytest.raises(UserError, match="cache"):
        train(replace(chosen, data=empty))


def test_text_is_padded_to_the_length_of_generation(tiny_pipeline: Path) -> None:
    assert text_tokens(tiny_pipeline) == 24
    padded = pad_text([torch.ones(2, 3), torch.ones(5, 3)], 4)
    assert padded.shape == (2, 4, 3)
    assert padded.sum(dim=(1, 2)).tolist() == [6, 12]
