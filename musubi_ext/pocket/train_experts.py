"""Train the two experts of the pocket Wan apart, one process and one core each: they never meet in training."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from musubi_ext.pocket.config import BOUNDARY, SHIPPED, Size, build_expert
from musubi_ext.pocket.latents import Batch, LatentCorpus
from musubi_ext.pocket.optim import MatrixMuon, averaged
from musubi_ext.schedule.experts import Expert, timestep_range
from musubi_ext.schedule.timesteps import sample_timesteps
from musubi_ext.storage import atomic_path

BATCH = 16
KEEP_EVERY = 500  # steps between two saved states
SHIFT = {Expert.HIGH: 5.0, Expert.LOW: 2.5}  # noise levels each expert meets most
SPREAD = {Expert.HIGH: 1.0, Expert.LOW: 1.3}  # scale of the logit-normal under the shift


def train_experts(
    data: LatentCorpus, no_text: Tensor, folder: Path, steps: int, size: Size = SHIPPED
) -> dict[Expert, nn.Module]:
    """Both experts side by side, from nothing; a finished expert is read from `folder` instead."""
    context = get_context("spawn")
    waiting = {
        expert: context.Process(target=_train, args=(expert, data, no_text, folder, steps, size))
        for expert in Expert
        if not _done(folder, expert).exists()
    }
    for process in waiting.values():
        process.start()
    for expert, process in waiting.items():
        process.join()
        if process.exitcode:
            raise RuntimeError(f"training the {expert.value} expert ended with status {process.exitcode}")
    experts = {expert: build_expert(size) for expert in Expert}
    for expert, model in experts.items():
        model.load_state_dict(torch.load(_done(folder, expert), weights_only=True))
    return experts


def flow_loss(model: nn.Module, batch: Batch, noise: Tensor, t: Tensor) -> Tensor:
    """Rectified-flow matching: x_t = (1 − t)·x + t·ε, target ε − x, for t (B,) in [0, 1]."""
    shaped = t.view(-1, 1, 1, 1, 1)
    noisy = (1 - shaped) * batch.latents + shaped * noise
    output = model(
        hidden_states=torch.cat([noisy, batch.condition], 1),
        timestep=1000 * t,
        encoder_hidden_states=batch.text,
        return_dict=False,
    )[0]
    return nn.functional.mse_loss(output, noise - batch.latents)


def _done(folder: Path, expert: Expert) -> Path:
    return folder / f"expert_{expert.value}.pt"


def _hidden(name: str, parameter: nn.Parameter) -> bool:
    return name.startswith("blocks.") and parameter.ndim == 2


def _train(expert: Expert, data: LatentCorpus, no_text: Tensor, folder: Path, steps: int, size: Size) -> None:
    torch.set_num_threads(1)  # two threads on one core's worth of work are many times slower
    torch.manual_seed(expert is Expert.LOW)
    rng = np.random.default_rng(int(expert is Expert.LOW))
    model = build_expert(size)
    optimizer = MatrixMuon(model, _hidden, muon_lr=2.5e-3, adam_lr=1.5e-3, steps=steps)
    average = averaged(model, 0.997)
    low, high = timestep_range(expert, BOUNDARY)
    halfway = _done(folder, expert).with_suffix(".state")
    started, running = _resume(halfway, model, average, optimizer, rng) if halfway.exists() else (0, 0.0)
    for step in range(started, steps):
        batch = data.sample(rng, BATCH, no_text)
        t = sample_timesteps("shift", BATCH, low, high, shift=SHIFT[expert], sigmoid_scale=SPREAD[expert])
        loss = flow_loss(model, batch, torch.randn_like(batch.latents), t)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update_parameters(model)
        running += (loss.item() - running) / min(step + 1, 200)
        if step % 100 == 0:
            print(f"{expert.value:4s} expert, step {step:5d} of {steps}: loss {running:.4f}", flush=True)
        if (step + 1) % KEEP_EVERY == 0:
            _keep(halfway, step + 1, running, model, average, optimizer, rng)
    with atomic_path(_done(folder, expert)) as temporary:
        torch.save(average.module.state_dict(), temporary)
    halfway.unlink(missing_ok=True)


def _keep(
    path: Path,
    step: int,
    running: float,
    model: nn.Module,
    average: nn.Module,
    optimizer: MatrixMuon,
    rng: np.random.Generator,
) -> None:
    """Everything the next step depends on, so that an interrupted training ends with the same bits."""
    state = {
        "step": step,
        "running": running,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": rng.bit_generator.state,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _resume(
    path: Path, model: nn.Module, average: nn.Module, optimizer: MatrixMuon, rng: np.random.Generator
) -> tuple[int, float]:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["torch_rng"])
    rng.bit_generator.state = state["numpy_rng"]
    return int(state["step"]), float(state["running"])
