"""A pair of adapters is one thing: NAME_h.safetensors, NAME_l.safetensors and NAME.pair.json, all three or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from musubi_ext.adapters.compare import compare_manifests, compare_weights
from musubi_ext.adapters.files import read_lora, write_lora
from musubi_ext.adapters.formats import convert
from musubi_ext.adapters.keys import Format
from musubi_ext.adapters.manifest import (
    SCHEMA,
    SUFFIX,
    check_manifest,
    expert_entry,
    read_manifest,
    shape_of_weights,
)
from musubi_ext.adapters.staging import publish, staged
from musubi_ext.adapters.updates import check_updates, updates
from musubi_ext.errors import Problems, UserError
from musubi_ext.schedule.experts import Expert, find_task, resolve_boundary
from musubi_ext.schedule.naming import name_problem, output_name
from musubi_ext.storage import sha256, write_json

ADAPTER = "pair"  # the adapter's name inside a pipeline


@dataclass(frozen=True, eq=False)
class AdapterPair:
    """A pair on disk whose files were found to be what its manifest says."""

    path: Path  # of the manifest
    manifest: dict[str, Any]

    @classmethod
    def load(cls, path: Path | str) -> AdapterPair:
        """The pair of a manifest, or of a directory that holds exactly one.

        Raises UserError for an absent, ambiguous, partial, changed or contradictory pair, listing everything found.
        """
        manifest_path = _manifest_in(Path(path))
        pair = cls(manifest_path, read_manifest(manifest_path))
        pair.verify()
        return pair

    @classmethod
    def save(
        cls,
        directory: Path | str,
        name: str,
        high: Mapping[str, Tensor],
        low: Mapping[str, Tensor],
        *,
        task: str = "pocket-i2v",
        boundary: float | None = None,
        train_base: str | None = None,
        serve_base: str | None = None,
        transformer: Mapping[str, int] | None = None,
        steps: Mapping[Expert, int] | None = None,
        timestep_ranges: Mapping[Expert, tuple[float, float]] | None = None,
        inference: Mapping[str, Any] | None = None,
        dataset_fingerprint: str | None = None,
        training: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
        metadata: Mapping[Expert, Mapping[str, str]] | None = None,
    ) -> AdapterPair:
        """Write NAME_h, NAME_l and NAME.pair.json to `directory`, replacing a pair of that name, all three or none.

        `high` and `low`: LoRAs in keys of any format. What is not given comes from the task (boundary, bases) or from
        the matrices (`transformer`; manifest.transformer_shape knows all of it). `metadata`: of the safetensors files.
        Raises UserError for what `load` would refuse, and writes nothing then.
        """
        if wrong := name_problem(name):
            raise UserError(f"name of the pair: {wrong}")
        known = find_task(task)
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "name": name,
            "task": known.name,
            "boundary": resolve_boundary(known, boundary, boundary),
            "train_base": train_base or known.train_base,
            "serve_base": serve_base or known.serve_base,
            "transformer": dict(transformer or {}),
            "experts": {},
            "inference": dict(inference or {}),
            "dataset_fingerprint": dataset_fingerprint,
            "training": dict(training or {}),
            "evaluation": dict(evaluation) if evaluation is not None else None,
        }
        folder = Path(directory)
        weights = _checked(folder, name, {Expert.HIGH: high, Expert.LOW: low})
        with staged(folder) as stage:
            for expert in Expert:
                file = stage / f"{output_name(name, expert)}.safetensors"
                write_lora(file, weights[expert], (metadata or {}).get(expert))
                entry = _entry(file, steps, timestep_ranges, expert)
                manifest["experts"][expert.value] = entry
            if transformer is None:
                manifest["transformer"] = shape_of_weights(updates(weights[Expert.HIGH]))
            path = folder / f"{name}{SUFFIX}"
            check_manifest(manifest, path)
            write_json(stage / path.name, manifest)
            publish(stage, folder, [entry["file"] for entry in manifest["experts"].values()] + [path.name])
        return cls(path, manifest)

    def files(self) -> dict[str, Path]:
        """The three files: "manifest", "high", "low"."""
        return {"manifest": self.path, **{expert.value: self._file(expert) for expert in Expert}}

    def verify(self) -> None:
        """Read everything again. Raises UserError listing every file that is missing, changed, broken or misnamed."""
        problems = Problems()
        for expert in Expert:
            try:
                self.state_dict(expert)
            except UserError as error:
                problems.found.extend(error.problems)
        problems.raise_if_any()

    def state_dict(self, expert: Expert) -> dict[str, Tensor]:
        """One expert's LoRA in musubi keys, read from its file. Raises UserError if the file is not the manifest's."""
        file, entry = self._file(expert), self.manifest["experts"][expert.value]
        if not file.is_file():
            raise UserError(f"{file}: missing, the pair {self.manifest['name']} is partial (copy all three files)")
        tensors = read_lora(file).tensors
        found = expert_entry(tensors, file.name, sha256(file))
        problems = Problems()
        for key in ("rank", "alpha", "sha256"):
            if found[key] != entry[key]:
                fix = "the file was replaced or damaged since the pair was saved" if key == "sha256" else ""
                problems.add(file, f"{key}: expected {entry[key]} as {self.path.name} says, found {found[key]}", fix)
        problems.raise_if_any()
        return tensors

    def apply(
        self, pipeline: Any, strength_high: float = 1.0, strength_low: float = 1.0, adapter_name: str = ADAPTER
    ) -> None:
        """Put the pair into both experts of a diffusers Wan2.2 pipeline; other adapters stay as they are.

        Raises UserError, and leaves the pipeline as it was, for a pair of another base or one without effect.
        """
        from musubi_ext.adapters.attach import attach  # peft takes seconds to import

        weights = {expert: self.state_dict(expert) for expert in Expert}
        strengths = {Expert.HIGH: strength_high, Expert.LOW: strength_low}
        attach(pipeline, weights, strengths, self.manifest, adapter_name)

    def _file(self, expert: Expert) -> Path:
        return self.path.with_name(self.manifest["experts"][expert.value]["file"])


def remove(pipeline: Any, adapter_name: str = ADAPTER) -> None:
    """Take a pair out of a pipeline; its output is then what it was before, to the last bit. Nothing if none is in."""
    from musubi_ext.adapters.attach import detach

    detach(pipeline, adapter_name)


def compare(a: AdapterPair, b: AdapterPair) -> dict[str, Any]:
    """`manifest`: entries that differ; `experts`: compare_weights of each; `identical`: both experts bit for bit."""
    experts = {expert.value: compare_weights(a.state_dict(expert), b.state_dict(expert)) for expert in Expert}
    return {
        "identical": all(result["identical"] for result in experts.values()),
        "manifest": compare_manifests(a.manifest, b.manifest),
        "experts": experts,
    }


def _checked(
    folder: Path, name: str, weights: Mapping[Expert, Mapping[str, Tensor]]
) -> dict[Expert, dict[str, Tensor]]:
    """Both LoRAs in musubi keys. Raises UserError listing what is wrong with either, by the file it would become."""
    problems = Problems()
    converted = {}
    for expert in Expert:
        where = folder / f"{output_name(name, expert)}.safetensors"
        try:
            converted[expert] = convert(weights[expert], Format.MUSUBI, where)
            check_updates(converted[expert], where, problems)
        except UserError as error:
            problems.found.extend(error.problems)
    problems.raise_if_any()
    return converted


def _entry(
    file: Path,
    steps: Mapping[Expert, int] | None,
    ranges: Mapping[Expert, tuple[float, float]] | None,
    expert: Expert,
) -> dict[str, Any]:
    trained = (ranges or {}).get(expert)
    return expert_entry(read_lora(file).tensors, file.name, sha256(file)) | {
        "steps": (steps or {}).get(expert),
        "timestep_range": list(trained) if trained is not None else None,
    }


def _manifest_in(path: Path) -> Path:
    """The manifest that a path means. Raises UserError unless there is exactly one."""
    if not path.is_dir():
        if path.exists() and not path.name.endswith(SUFFIX):
            raise UserError(f"{path}: expected a pair's folder or its NAME{SUFFIX}, found another file")
        return path
    found = sorted(path.glob(f"*{SUFFIX}"))
    if not found:
        raise UserError(f"{path}: no pair in this folder (expected one NAME{SUFFIX})")
    if len(found) > 1:
        raise UserError(f"{path}: {len(found)} pairs in this folder: name one of {', '.join(p.name for p in found)}")
    return found[0]
