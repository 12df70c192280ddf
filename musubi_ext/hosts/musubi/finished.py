"""Previews of a finished pair: both experts read from their files, one at a time, by upstream's own model code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from musubi_ext.hosts.jobs import Job
from musubi_ext.hosts.musubi.previews import render_pair
from musubi_ext.hosts.musubi.residency import OnDisk
from musubi_ext.hosts.musubi.trainer import trainer_class
from musubi_ext.schedule.experts import Expert


def render_finished(
    job: Job, args: Namespace, adapters: Mapping[Expert, Path | None], folder: Path, stem: str
) -> list[Path]:
    """A video per prompt of `args.sample_prompts`; see `previews.render_pair`. `args` is the whole command's."""
    own = Namespace(**vars(job.args))
    trainer = trainer_class(own.task)(job.phase, job.data)
    trainer.handle_model_specific_args(own)
    accelerator, _, _, _, vae_dtype = trainer._prepare_accelerator_and_dtypes(own)
    sample_parameters, vae = trainer._prepare_sampling(own, accelerator, vae_dtype)
    trainer.blocks_to_swap = own.blocks_to_swap or 0
    experts = {
        Expert.HIGH: OnDisk(str(args.dit_high_noise), adapters[Expert.HIGH]),
        Expert.LOW: OnDisk(str(args.dit), adapters[Expert.LOW]),
    }
    return render_pair(trainer, own, accelerator, experts, sample_parameters, vae, folder, stem, job.phase.boundary)
