"""What a pipeline may be asked for, and where in its folder everything lies."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from musubi_ext.errors import Problems, UserError

POCKET = "pocket-i2v"
RENDERED = "rendered"  # the data set of nobody: clips rendered for the pocket model
STEPS = ("prepare", "train", "evaluate", "promote")
_RANGES = {"clips": (2, 10_000), "network_dim": (1, 1024), "steps": (1, 10_000_000), "seed": (0, 2**31 - 1)}


@dataclass(frozen=True)
class Settings:
    """A pipeline's parameters, which are those of mlflow_projects/MLproject."""

    dataset_config: str = RENDERED
    clips: int = 200
    task: str = POCKET
    base: str = POCKET
    output_dir: str = "runs/pipeline"
    output_name: str = "pair"
    name: str = "circle-rotate"
    network_dim: int = 16
    steps: int = 450
    seed: int = 42
    train_flags: str = ""
    gate: str = "mlflow_projects/gate.toml"
    require_approval: str = "no"
    device: str = "cpu"
    workers: int | None = None

    @classmethod
    def parse(cls, args: argparse.Namespace) -> Settings:
        """From the command line. Raises UserError with everything that is wrong."""
        from musubi_ext.registry.names import check_name
        from musubi_ext.schedule.experts import find_task
        from musubi_ext.schedule.naming import name_problem

        problems = Problems()
        for flag, (low, high) in _RANGES.items():
            if not low <= (value := getattr(args, flag)) <= high:
                problems.add(f"--{flag}", f"expected {low} to {high}, found {value}")
        if args.workers is not None and args.workers < 1:
            problems.add("--workers", f"expected at least 1, found {args.workers}")
        if args.dataset_config != RENDERED and not Path(args.dataset_config).is_file():
            problems.add(f"--dataset_config {args.dataset_config}", f"expected a data set's TOML or {RENDERED}")
        if args.dataset_config == RENDERED and args.task != POCKET:
            problems.add(f"--task {args.task}", "rendered clips are the pocket's", "name a --dataset_config")
        if args.base != POCKET and not (Path(args.base) / "model_index.json").is_file():
            problems.add(f"--base {args.base}", "expected a diffusers pipeline folder, found no model_index.json in it")
        if args.base == POCKET and args.task != POCKET and args.step not in STEPS[:2]:
            problems.add(f"--task {args.task}", "it is not filmed on the pocket", "name the pipeline's folder: --base")
        if not Path(args.gate).is_file():
            problems.add(f"--gate {args.gate}", "expected the gate's TOML, found none")
        if wrong := name_problem(args.output_name):
            problems.add("--output_name", wrong)
        for check in (partial(check_name, args.name), partial(find_task, args.task), partial(_words, args.train_flags)):
            problems.collect(check)
        problems.raise_if_any()
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})

    @property
    def more_flags(self) -> list[str]:
        """`train_flags` as words."""
        return _words(self.train_flags)

    @property
    def layout(self) -> Layout:
        """Its folder."""
        return Layout(Path(self.output_dir))

    @property
    def dataset(self) -> Path:
        """The data set's TOML; that of rendered clips is there once they are."""
        return self.layout.dataset if self.dataset_config == RENDERED else Path(self.dataset_config)


@dataclass(frozen=True)
class Layout:
    """The pipeline's folder. Only a data set of the user's own keeps clips and caches where its TOML says."""

    root: Path

    @property
    def marker(self) -> Path:
        """Says that the folder is a pipeline's; the first file written."""
        return self.root / "pipeline.json"

    @property
    def clips(self) -> Path:
        """Rendered clips: NAME.mp4, NAME.txt, NAME.npz."""
        return self.root / "data" / "orbit"

    @property
    def dataset(self) -> Path:
        """TOML of the rendered clips."""
        return self.root / "data" / "orbit.toml"

    @property
    def cache(self) -> Path:
        """Their latents and text embeddings."""
        return self.root / "cache" / "orbit"

    @property
    def pair(self) -> Path:
        """Folder of the pair's three files, and of its training's states."""
        return self.root / "pair"

    @property
    def evaluation(self) -> Path:
        """candidate.json, base.json, verdict.json, compare.html, filmstrips/."""
        return self.root / "evaluation"

    @property
    def stamps(self) -> Path:
        """STEP.json: a finished step."""
        return self.root / "stamps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags; each is a parameter of the MLflow project."""
    default = Settings()

    def add(name: str, text: str, **more: object) -> None:
        shown = "" if getattr(default, name) in ("", None) else " (%(default)s)"
        parser.add_argument(f"--{name}", default=getattr(default, name), help=text + shown, **more)  # type: ignore[arg-type]

    add("dataset_config", f"the data set's TOML, or {RENDERED}: clips made for the pocket", metavar="FILE.toml")
    add("clips", "how many are rendered", type=int)
    add("task", "what is trained: pocket-i2v, i2v-A14B, …")
    add("base", "pipeline to film on, and to train the pocket's task on", metavar="DIR")
    add("output_dir", "everything that is made", metavar="DIR")
    add("output_name", "of the pair")
    add("name", "registered model")
    add("network_dim", "rank of the adapters", type=int)
    add("steps", "training steps of each expert", type=int)
    add("seed", "of the training", type=int)
    add("train_flags", "more flags for the training, in one word: --train_flags='--preset 24gb --dit …'")
    add("gate", "what the pair must show, and on which suite", metavar="FILE.toml")
    add("require_approval", "yes: nothing is promoted before somebody else approved", choices=("no", "yes"))
    add("device", "where videos are made", choices=("cpu", "cuda"))
    add("workers", "processes that make videos on a CPU (one per core)", type=int, metavar="N")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--train_flags {text!r}: {error}") from error
