"""The pocket experts as musubi-tuner reads them: files in Wan's own layout, made once from a diffusers pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import UserError
from musubi_ext.hosts.base_weights import fingerprint
from musubi_ext.hosts.musubi.discovery import cache_home
from musubi_ext.pocket.upstream import export_experts
from musubi_ext.schedule.experts import Expert


@dataclass(frozen=True)
class PocketFiles:
    """Both experts' files, and the pipeline folder of the VAE and the text encoder that go with them."""

    high: Path
    low: Path
    pipeline: Path


def pocket_files(dit: str | None, dit_high_noise: str | None, pipeline: str | Path) -> PocketFiles:
    """The files that `--dit` and `--dit_high_noise` name; of a pipeline folder, or where none is named, an export.

    Exports lie in the cache directory under the content of the pipeline. Raises UserError for what is neither.
    """
    folders = [Path(path) for path in (dit, dit_high_noise) if path is not None and Path(path).is_dir()]
    folder = folders[0] if folders else Path(pipeline)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder}: expected a diffusers pipeline folder, found none (--dit, --vae or --t5 names it)")
    named = {Expert.HIGH: dit_high_noise, Expert.LOW: dit}
    if all(path is not None and Path(path).is_file() for path in named.values()):
        return PocketFiles(Path(str(dit_high_noise)), Path(str(dit)), folder)
    key = "-".join(fingerprint(folder / expert.component)[:16] for expert in Expert)
    files = export_experts(folder, cache_home() / "pocket" / key)
    found = {
        expert: Path(str(path)) if path is not None and Path(path).is_file() else files[expert]
        for expert, path in named.items()
    }
    return PocketFiles(found[Expert.HIGH], found[Expert.LOW], folder)
