"""The demo's stages in order, and what each depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from musubi_ext.demo.options import MODEL, POCKET, Options
from musubi_ext.pipeline.stages import Stage, later
from musubi_ext.storage import sha256


def base_fingerprint(options: Options) -> dict[str, Any]:
    """What the base is made of: SHA-256 over its configurations and weights, whatever their folder is called."""
    from musubi_ext.pocket.config import pipeline_path

    folder = pipeline_path() if options.base == POCKET else Path(options.base)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return {"base": digest.hexdigest()}


CHAIN = (
    Stage(
        "render",
        (),
        lambda o: f"{o.clips} training clips, clean orbits of 17 frames",
        lambda o: {"clips": o.clips},
        lambda at: (at.clips,),
        later("musubi_ext.demo.clips", "render_clips"),
    ),
    Stage(
        "scenes",
        (),
        lambda o: f"{o.scenes} held-out scenes, new subjects of {o.shapes} kinds",
        lambda o: {"scenes": o.scenes, "shapes": o.shapes},
        lambda at: (at.scenes,),
        later("musubi_ext.demo.clips", "render_scenes"),
    ),
    Stage(
        "cache",
        ("render",),
        lambda _: "latents and text embeddings of the training clips",
        base_fingerprint,
        lambda at: (at.cache, at.dataset),
        later("musubi_ext.demo.training", "cache"),
    ),
    Stage(
        "train",
        ("cache",),
        lambda o: f"both experts side by side, {o.steps} steps each, rank {o.rank}, seed {o.seed}",
        lambda o: {"steps": o.steps, "rank": o.rank, "seed": o.seed},
        lambda at: (at.pair,),
        later("musubi_ext.demo.training", "train"),
        lambda at: (at.database,),
    ),
    Stage(
        "generate",
        ("scenes", "train"),
        lambda o: f"base and pair on {o.scenes} scenes, {o.sampler_steps} sampling steps",
        lambda o: {"sampler_steps": o.sampler_steps, "seed": o.seed},
        lambda at: (at.videos,),
        later("musubi_ext.demo.videos", "generate"),
    ),
    Stage(
        "evaluate",
        ("generate",),
        lambda o: f"every metric on {o.scenes} scenes, and their filmstrips",
        lambda _: {},
        lambda at: (at.results, at.filmstrips),
        later("musubi_ext.demo.measures", "evaluate"),
    ),
    Stage(
        "register",
        ("evaluate",),
        lambda _: f"MLflow model {MODEL}: version, candidate, gate, champion if it passes",
        lambda _: {},
        lambda at: (at.summary,),
        later("musubi_ext.demo.register", "register"),
        lambda at: (at.database,),
    ),
    Stage(
        "serve",
        ("register",),
        lambda _: f"the service with {MODEL}@champion makes one video",
        lambda _: {},
        lambda at: (at.served,),
        later("musubi_ext.demo.serve", "serve"),
    ),
)
