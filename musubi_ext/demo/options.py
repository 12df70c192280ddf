"""What a demo may be asked for, and where in its folder everything lies."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import Problems

POCKET = "pocket-i2v"
MODEL = "circle-rotate"  # the registered model
EXPERIMENT = "demo"
PAIR = "demo"

_LOWEST = {"seed": 0, "scenes": 1, "clips": 2, "steps": 1, "rank": 1, "sampler_steps": 1}
_HIGHEST = {"seed": 2**31 - 1, "scenes": 10_000, "clips": 10_000, "steps": 100_000, "rank": 128, "sampler_steps": 1000}


@dataclass(frozen=True)
class Options:
    """The demo's numbers. `seed` is that of training and of the videos; clips and scenes are the same for all."""

    seed: int = 42
    scenes: int = 24
    clips: int = 200
    steps: int = 450  # updates of each expert
    rank: int = 16
    sampler_steps: int = 12
    shapes: str = "known"  # of held-out subjects: "known" kinds in new scenes, or "unseen" kinds
    base: str = POCKET  # or a pipeline folder of the pocket's layout

    @classmethod
    def parse(cls, args: argparse.Namespace) -> Options:
        """From the command line. Raises UserError with every number out of range."""
        problems = Problems()
        for name, lowest in _LOWEST.items():
            value = getattr(args, name)
            if not lowest <= value <= _HIGHEST[name]:
                problems.add(f"--{name}", f"expected {lowest} to {_HIGHEST[name]}, found {value}")
        if args.base != POCKET and not (Path(args.base) / "model_index.json").is_file():
            problems.add(f"--base {args.base}", "expected a diffusers pipeline folder, found no model_index.json in it")
        if Path(args.out).exists() and not Path(args.out).is_dir():
            problems.add(f"--out {args.out}", "expected a folder, found a file", "give another folder")
        problems.raise_if_any()
        return cls(**{name: getattr(args, name) for name in (*_LOWEST, "shapes", "base")})


@dataclass(frozen=True)
class Layout:
    """The demo's folder. `OWNED` names everything that a demo puts there, and so all that `--fresh` removes."""

    root: Path

    OWNED = ("data", "cache", "pair", "videos", "results", "filmstrips", "stamps", "mlartifacts", "mlflow_spool",
             "mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlflow.db-journal", "summary.json",
             "service", "service.toml", "service.json", "service.mp4")  # fmt: skip

    @property
    def marker(self) -> Path:
        """Says that the folder is a demo's; the first file written and the last removed."""
        return self.root / "demo.json"

    @property
    def clips(self) -> Path:
        """Training clips: NAME.mp4, NAME.txt, NAME.npz."""
        return self.root / "data" / "orbit"

    @property
    def scenes(self) -> Path:
        """Held-out scenes, with views around their subject."""
        return self.root / "data" / "heldout"

    @property
    def dataset(self) -> Path:
        """The data set's TOML."""
        return self.root / "data" / "orbit.toml"

    @property
    def cache(self) -> Path:
        """Latents and text embeddings of the training clips."""
        return self.root / "cache" / "orbit"

    @property
    def pair(self) -> Path:
        """Folder of the pair's three files."""
        return self.root / "pair"

    @property
    def videos(self) -> Path:
        """SCENE_base.mp4, SCENE_pair.mp4, and SCENE.npz with the same frames before any codec."""
        return self.root / "videos"

    @property
    def results(self) -> Path:
        """MODEL.json: every metric of every scene."""
        return self.root / "results"

    @property
    def filmstrips(self) -> Path:
        """SCENE.png: ground truth, base, pair."""
        return self.root / "filmstrips"

    @property
    def stamps(self) -> Path:
        """STAGE.json: a finished stage."""
        return self.root / "stamps"

    @property
    def summary(self) -> Path:
        """What the table is printed from."""
        return self.root / "summary.json"

    @property
    def service(self) -> Path:
        """The service's jobs, its database and its log."""
        return self.root / "service"

    @property
    def service_config(self) -> Path:
        """What to start the service with, to have the demo's champion: $MUSUBI_EXT_SERVICE_CONFIG."""
        return self.root / "service.toml"

    @property
    def served(self) -> Path:
        """What the service answered."""
        return self.root / "service.json"

    @property
    def served_video(self) -> Path:
        """The video that it made."""
        return self.root / "service.mp4"

    @property
    def database(self) -> Path:
        """MLflow's runs and registered models."""
        return self.root / "mlflow.db"

    @property
    def tracking_uri(self) -> str:
        """MLflow's store, artifacts beside it in `mlartifacts`."""
        return f"sqlite:///{self.database.absolute().as_posix()}"
