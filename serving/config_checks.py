"""What the configuration's values mean outside of it: folders, addresses and variables of the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import Problems

if TYPE_CHECKING:
    from serving.config import ServiceConfig

POCKET = "pocket-i2v"


def _base(values: dict[str, Any], where: str, problems: Problems) -> None:
    """The folder, cheaply: the engine looks closer before it loads it."""
    base = values.get("base", POCKET)
    if isinstance(base, str) and base != POCKET and not (Path(base) / "model_index.json").is_file():
        found = "has no model_index.json" if Path(base).is_dir() else "is no folder"
        problems.add(f"{where}: base", f"{base} {found}", f"{POCKET}, or a local Wan2.2 pipeline folder of diffusers")


def _experts(values: dict[str, Any], where: str, problems: Problems) -> None:
    found = values.get("experts")
    table = found if isinstance(found, dict) else {}
    files = {name: str(table[name]) for name in ("high", "low") if table.get(name)}
    if len(files) == 1:
        problems.add(f"{where}: experts", f"only {next(iter(files))} is given", "give both, or neither")
    for name, file in files.items():
        if not file.endswith(".safetensors") or not Path(file).is_file():
            problems.add(
                f"{where}: experts.{name}", f"{file} is no .safetensors file", "one expert under Wan's own names"
            )


def _pair(values: dict[str, Any], where: str, problems: Problems) -> None:
    pair = values.get("pair")
    if not isinstance(pair, str) or not pair:
        return
    if pair.startswith("models:/"):
        if not re.fullmatch(r"models:/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z][A-Za-z0-9_-]*|/[1-9][0-9]*)", pair):
            problems.add(f"{where}: pair", f"{pair} is no address", "models:/NAME@ALIAS or models:/NAME/VERSION")
    elif not Path(pair).exists():
        problems.add(f"{where}: pair", f"{pair} is no folder", "a pair's folder, models:/NAME@ALIAS, or an empty text")


def _database(values: dict[str, Any], where: str, problems: Problems) -> None:
    url = values.get("database", "")
    if isinstance(url, str) and url and not re.match(r"(postgresql(\+\w+)?|sqlite)://", url):
        problems.add(f"{where}: database", "expected postgresql://… or sqlite:///FILE", "leave it out for SQLite")


def _secrets(values: dict[str, Any], where: str, problems: Problems) -> None:
    """A secret stands in the environment, never in the file: the variable that is named must be set."""
    for table, key in (("webhooks", "secret_env"), ("adapters", "webhook_secret_env")):
        of = values.get(table)
        name = of.get(key) if isinstance(of, dict) else None
        if isinstance(name, str) and name and not os.environ.get(name):
            problems.add(f"{where}: {table}.{key}", f"the environment variable {name} is not set", "set it")


def check_together(config: ServiceConfig, where: str, problems: Problems) -> None:
    """What depends on several tables."""
    if config.levers.needs_cuda and config.device == "cpu":
        problems.add(f"{where}: levers", f"{config.levers.needs_cuda} needs a GPU", 'set device = "cuda"')
    if config.experts.files and config.levers.quantization != "none":
        problems.add(
            f"{where}: levers.quantization", "is for the base's own experts", "leave out quantization or experts"
        )
    if config.keys.required is False and not config.bind.loopback:
        problems.add(
            f"{where}: keys.required",
            f"no keys, though {config.bind.host} can be reached from other machines",
            "leave it out, or bind 127.0.0.1",
        )


CHECKS = (_base, _experts, _pair, _database, _secrets)  # (values, where, problems): each adds what it finds wrong
