"""Videos of the sample prompts while a pair is trained: always by both experts, with their adapters as they stand.

Upstream's in-training samples come from the low-noise expert alone. Here the expert under training is taken as it is,
the other one with its finished adapter or its newest checkpoint, and without an adapter before there is any.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from musubi_ext.adapters.files import read_lora
from musubi_ext.hosts.checkpoints import last_name
from musubi_ext.hosts.jobs import MUSUBI, Plan
from musubi_ext.hosts.loop import Run
from musubi_ext.schedule.experts import Expert
from musubi_ext.schedule.naming import output_name

Keep = Callable[[Sequence[Path], str], None]  # files, and the folder of the run that they belong in
FOLDER = "previews"


class PairPreviews:
    """Made for one plan. Calling it makes previews within a phase; `at_end` those of the finished pair."""

    def __init__(self, plan: Plan, keep: Keep | None) -> None:
        self._plan, self._keep = plan, keep
        self.folder = Path(plan.args.output_dir) / FOLDER

    def __call__(self, trainer: Any, args: Namespace, run: Run) -> None:
        """Previews after an epoch of one expert."""
        if run.accelerator.is_main_process:
            expert = trainer.phase.expert
            stem = f"{self._plan.name}_{expert.suffix}-{run.position.epoch:06d}"
            render = self._render_in_host if self._plan.host == MUSUBI else self._render_in_pocket
            self._kept(render(trainer, args, run, expert, stem), stem)
        run.accelerator.wait_for_everyone()

    def kept_by(self, keep: Keep | None) -> PairPreviews:
        """The same, whose files go elsewhere: another process makes them."""
        return PairPreviews(self._plan, keep)

    def keep(self, files: Sequence[Path], folder: str) -> None:
        """Hand on files that were made."""
        if self._keep is not None:
            self._keep(files, folder)

    def at_end(self) -> None:
        """Previews of the finished pair, unless `--preview_at_end off`."""
        if self._plan.args.preview_at_end == "off":
            return
        stem = self._plan.name
        if self._plan.host == MUSUBI:
            from musubi_ext.hosts.musubi.finished import render_finished

            adapters = {expert: self._newest(expert) for expert in Expert}
            videos = render_finished(self._plan.jobs[0], self._plan.args, adapters, self.folder, stem)
        else:
            videos = self._diffusers({expert: self._weights(expert) for expert in Expert}, stem, "cpu")
        self._kept(videos, stem)

    def _render_in_pocket(self, trainer: Any, args: Namespace, run: Run, expert: Expert, stem: str) -> list[Path]:
        import torch

        from musubi_ext.hosts.pocket_model import lora_state

        live = lora_state(run.accelerator.unwrap_model(run.network), torch.float32)
        adapters = {other: live if other is expert else self._weights(other) for other in Expert}
        return self._diffusers(adapters, stem, run.accelerator.device)

    def _render_in_host(self, trainer: Any, args: Namespace, run: Run, expert: Expert, stem: str) -> list[Path]:
        from musubi_ext.hosts.musubi.previews import render_pair
        from musubi_ext.hosts.musubi.residency import Live, OnDisk

        other = next(other for other in Expert if other is not expert)
        plan = self._plan.args
        dit = plan.dit_high_noise if other is Expert.HIGH else plan.dit
        experts: dict[Expert, Live | OnDisk] = {expert: Live(run.transformer), other: OnDisk(dit, self._newest(other))}
        boundary = trainer.phase.boundary
        return render_pair(
            trainer, args, run.accelerator, experts, trainer.sample_parameters, run.vae, self.folder, stem, boundary
        )

    def _diffusers(self, adapters: dict[Expert, dict[str, Tensor] | None], stem: str, device: Any) -> list[Path]:
        from musubi_ext.generation.previews import render_previews
        from musubi_ext.generation.sample_prompts import read_sample_prompts

        assert self._plan.pipeline is not None  # the pocket host has one
        prompts = read_sample_prompts(self._plan.args.sample_prompts)
        return render_previews(self._plan.pipeline, adapters, prompts, self.folder, stem, device)

    def _weights(self, expert: Expert) -> dict[str, Tensor] | None:
        path = self._newest(expert)
        return None if path is None else read_lora(path).tensors

    def _newest(self, expert: Expert) -> Path | None:
        """The expert's finished adapter, else its latest checkpoint; None before there is one."""
        folder, name = Path(self._plan.args.output_dir), output_name(self._plan.name, expert)
        if (folder / last_name(name)).is_file():
            return folder / last_name(name)
        numbered = re.compile(re.escape(name) + r"-(step\d{8,}|\d{6,})\.safetensors")
        found = [path for path in folder.glob(f"{name}-*.safetensors") if numbered.fullmatch(path.name)]
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

    def _kept(self, videos: Sequence[Path], stem: str) -> None:
        self.keep([file for video in videos for file in (video, video.with_suffix(".png"))], stem)
