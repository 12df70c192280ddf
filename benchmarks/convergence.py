"""Steps to the Circle-Rotate recipe's final validation loss: the expert's own timestep range against the whole one.

    python benchmarks/convergence.py --out runs/convergence --markdown docs/TRAINING_RESULTS.md

Theirs: each expert trained over all timesteps (`--full_range`). Ours: over its own range. Same weights, clips, seed,
learning rate, steps and validation, which is on the expert's own range at nine quantiles. Two starts: the shipped
experts, each trained for its range already, and one model of the whole range as both experts, as in a fork. Two sets of
clips: textured subjects, which are new to the base, and the demo's plain ones, which it was trained on kin of.
Finished adapters in `--out` are kept, so an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from convergence_table import History, Pair, compare, markdown
from forked_experts import fork
from rich.console import Console
from rich.progress import Progress
from tables import insert, machine

from musubi_ext.demo.clips import CLIP_SEED
from musubi_ext.hosts.checkpoints import VALIDATION, read_metadata
from musubi_ext.orbits.cache.write import cache_dataset
from musubi_ext.orbits.config import load_dataset_config
from musubi_ext.orbits.render import Look, write_dataset
from musubi_ext.pocket.config import pipeline_path
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import write_json, write_text
from musubi_ext.wan_train_network import run

LOOKS: tuple[Look, ...] = ("textured", "plain")
STARTS = ("specialised", "forked")
RECIPES = {"own": (), "whole": ("--full_range",)}
DATASET = """\
[general]
resolution = [64, 64]
enable_bucket = false
caption_extension = ".txt"
batch_size = {batch}

[[datasets]]
video_directory = {clips}
cache_directory = {cache}
target_frames = [17]
frame_extraction = "head"

[orbit]
condition = "first"
holdout = {holdout}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Train every run, compare, and write `OUT/convergence.json` and the Markdown table."""
    args = parser().parse_args(argv)
    torch.set_num_threads(1)
    console = Console(stderr=True)
    histories = {name: train(args, name, console) for name in track(runs(args), console)}
    document = {
        "machine": machine(),
        "arguments": {name: value for name, value in vars(args).items() if name not in ("out", "markdown")},
        "histories": [{**asdict(name), "history": history} for name, history in histories.items()],
        "rows": [compare(str(group), pairs(args, histories, group), args.steps) for group in groups(args)],
    }
    write_json(args.out / "convergence.json", document)
    text = markdown(document)
    print(text)
    if args.markdown:
        insert(args.markdown, "convergence", text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/convergence"))
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--steps", type=int, default=200, help="updates of each expert")
    made.add_argument("--every", type=int, default=10, help="updates between two validations")
    made.add_argument("--clips", type=int, default=80, help="of each set")
    made.add_argument("--holdout", type=float, default=0.2, help="share of the clips that is validated on")
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--learning_rate", type=float, default=2e-3)
    made.add_argument("--shift", type=float, default=8.0, help="of the timestep law; Circle-Rotate trains with 8")
    made.add_argument("--looks", nargs="+", choices=LOOKS, default=LOOKS, help="of the clips")
    made.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    made.add_argument("--fork_steps", type=int, default=400, help="updates that make the model of the whole range")
    made.add_argument("--fork_scale", type=float, default=0.1, help="of the base's corpus, for the same")
    made.add_argument("--markdown", type=Path, help="file whose table is replaced")
    return made


@dataclass(frozen=True)
class Group:
    """What is compared with itself alone."""

    look: Look
    start: str
    expert: Expert

    def __str__(self) -> str:
        return f"{self.look} clips, {self.start}, {self.expert.value}"


@dataclass(frozen=True)
class Run:
    """One training of one expert."""

    group: Group
    recipe: str
    seed: int


def groups(args: argparse.Namespace) -> list[Group]:
    return [Group(look, start, expert) for look in args.looks for start in args.starts for expert in Expert]


def runs(args: argparse.Namespace) -> list[Run]:
    """Everything to train; what will be compared is trained one after the other."""
    return [Run(group, recipe, seed) for seed in args.seeds for group in groups(args) for recipe in RECIPES]


def track(names: Sequence[Run], console: Console) -> Iterator[Run]:
    """The runs, with a progress bar; one that is done takes no time."""
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(names))
        for name in names:
            bar.update(task, description=f"{name.group}, {name.recipe} range, seed {name.seed}")
            yield name
            bar.advance(task)


def train(args: argparse.Namespace, name: Run, console: Console) -> History:
    """The validation history of one expert, by the command that a user would give; trained once."""
    group = name.group
    folder = args.out / group.look / group.start / f"{name.recipe}-{name.seed}"
    shipped = group.start == "specialised"
    base = pipeline_path() if shipped else fork(args.out / "fork", args.fork_steps, args.fork_scale)
    flags = {
        "dataset_config": data(args, group.look),
        "dit": base / "transformer_2",
        "dit_high_noise": base / "transformer",
        "vae": base,
        "t5": base,
        "network_dim": 16,
        "network_alpha": 16,
        "learning_rate": args.learning_rate,
        "timestep_sampling": "shift",
        "discrete_flow_shift": args.shift,
        "max_train_steps": args.steps,
        "validate_every_n_steps": args.every,
        "seed": name.seed,
        "output_dir": folder,
        "output_name": "orbit",
        "experts": group.expert.value,
    }
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    run([*words, "--no_mlflow", "--no_bands", *RECIPES[name.recipe]], console)
    validations = json.loads(read_metadata(folder / f"orbit_{group.expert.value[0]}.safetensors")[VALIDATION])
    return [(int(step), float(loss)) for step, loss in validations]


def data(args: argparse.Namespace, look: Look) -> Path:
    """The data set's TOML: rendered orbits of the demo's subjects, cached."""
    path: Path = args.out / look / "orbit.toml"
    if not path.exists():
        clips = path.parent / "clips"
        write_dataset(clips, args.clips, seed=CLIP_SEED, look=look)
        folders = {"clips": clips, "cache": path.parent / "cache"}
        quoted = {name: json.dumps(folder.absolute().as_posix()) for name, folder in folders.items()}
        text = DATASET.format(batch=args.batch, holdout=args.holdout, **quoted)
        write_text(path, text)
        cache_dataset(load_dataset_config(path), pipeline_path(), progress=False)
    return path


def pairs(args: argparse.Namespace, histories: Mapping[Run, History], group: Group) -> list[Pair]:
    """Ours and theirs of every seed."""
    return [Pair(*(histories[Run(group, recipe, seed)] for recipe in RECIPES)) for seed in args.seeds]


if __name__ == "__main__":
    main()
