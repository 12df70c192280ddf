"""The service's configuration: one TOML file, every mistake in it said at once, before anything is loaded.

    config = ServiceConfig.load("service.toml")     # or load(None): the pocket model, on this machine alone

A file names only what differs from the defaults below; a table of the file is a class here, a key a line.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from musubi_ext.errors import Problems, UserError
from serving.config_checks import CHECKS, POCKET, check_together
from serving.making.levers import Levers

CHAMPION = "models:/circle-rotate@champion"

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]


class Table(BaseModel):
    """A table of the file: its keys and no others, each of its own type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Bind(Table):
    """Where the service listens."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 3000

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # another name: it may be anyone's
            return False


class Limits(Table):
    """What one request, and the queue, may cost."""

    prompt: Count = 2_000  # characters
    upload_bytes: Count = 20_000_000  # of one picture
    body_bytes: Count = 50_000_000  # of a whole request
    image_pixels: Count = 50_000_000  # of one picture, read from its header
    frame_pixels: Count = 1280 * 720  # width × height of a video
    frames: Count = 145
    volume: Count = 2**27  # frames × width × height
    steps: Count = 100
    best_of: Annotated[int, Field(ge=1, le=64)] = 8
    queue: Count = 64  # jobs that wait for one GPU; the next is refused
    job_seconds: Seconds = 3_600.0  # a job that takes longer is ended
    wait_seconds: Seconds = 86_400.0  # a job that waits longer is given up
    sync_seconds: Seconds = 120.0  # of POST /v1/videos/sync
    sync_volume: Count = 2**22  # frames × width × height × best_of of POST /v1/videos/sync
    grace_seconds: Seconds = 25.0  # from SIGTERM to the end


class Cache(Table):
    """What the engine remembers between jobs: prompt embeddings and first-frame latents, by content."""

    bytes: Annotated[int, Field(ge=0)] = 512_000_000  # 0: nothing


class Adapters(Table):
    """How a promotion is noticed."""

    every: Annotated[float, Field(ge=0.05, le=3600)] = 5.0  # seconds between two questions to the registry
    webhook_secret_env: str = ""  # environment variable with the secret of MLflow's webhook; "": no webhook
    keep: Annotated[int, Field(ge=1, le=64)] = 4  # verified pairs kept open beside the current one


class Evaluation(Table):
    """What is measured of every video; learned metrics only where `weights` names their folder."""

    enabled: bool = True
    metrics: tuple[str, ...] = ()  # (): those of serving.making.measures.CHEAP, and LEARNED with weights
    profile: Literal["exact", "fast"] = "exact"  # of the optical flow
    weights: str = ""  # folder of CLIP, DINO and LPIPS weights; "": learned metrics are not asked for
    threads: Annotated[int, Field(ge=0)] = 0  # 0: every core
    mlflow_sample: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of videos sent to MLflow as online evaluation
    alarm_window: Annotated[int, Field(ge=5, le=10_000)] = 50  # videos of the rolling drift alarm


class Previews(Table):
    """A picture of a video's middle while it is made."""

    every: Annotated[int, Field(ge=0, le=1_000)] = 2  # denoising steps from one to the next; 0: none
    share: Annotated[float, Field(gt=0, le=1)] = 0.05  # of a job's time, at most; the first is made whatever it takes
    side: Count = 512  # pixels of the longer side, at most


class Retention(Table):
    """How long finished jobs and their files are kept."""

    hours: Seconds = 72.0
    bytes: Count = 50_000_000_000


class Keys(Table):
    """API keys. `required`: None means whenever the service listens beyond loopback."""

    required: bool | None = None
    queued: Count = 16  # jobs of one key that wait or run
    per_minute: Count = 60  # submissions of one key


class Jobs(Table):
    """How the queue is worked off."""

    workers: Count = 1  # processes, one GPU each
    retries: Annotated[int, Field(ge=0)] = 3  # faults of the machine in a row before a job fails
    poll: Seconds = 1.0  # seconds between two looks into the queue; a job submitted here does not wait for one
    lease: Seconds = 30.0  # seconds of silence after which a worker's jobs go to the others
    replica: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = ""  # "": by host and folder


class Webhooks(Table):
    """Calls when a job ends: none unless hosts are named."""

    hosts: tuple[Host, ...] = ()
    secret_env: str = ""  # environment variable with the HMAC key

    @model_validator(mode="after")
    def _signed(self) -> Webhooks:
        if self.hosts and not self.secret_env:
            raise ValueError("hosts are named, but no secret_env to sign with (name an environment variable)")
        return self


class Experts(Table):
    """Experts in place of the base's own, as single files under Wan's names: Fun-Inpaint's, or merged ones."""

    high: str = ""  # both, or neither
    low: str = ""

    @property
    def files(self) -> tuple[Path, Path] | None:
        """High, low; None for the base's own."""
        return (Path(self.high), Path(self.low)) if self.high else None


class ServiceConfig(Table):
    """Everything the service is told. Paths are relative to the working directory; `load` is the way to make one."""

    base: str = POCKET  # or a local Wan2.2 image-to-video folder of diffusers
    pair: str | None = None  # models:/NAME@ALIAS | models:/NAME/3 | a pair's folder | "" (base alone) | None: see below
    tracking_uri: str | None = None  # MLflow; None: $MLFLOW_TRACKING_URI, else mlflow.db here
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on a CPU, else bfloat16
    threads: Annotated[int, Field(ge=0)] = 0  # of torch on a CPU; 0: torch's own choice
    folder: str = "runs/service"  # jobs' files, and the database unless a URL is given
    database: str = ""  # postgresql://… for several replicas; "": a SQLite file in `folder`
    bind: Bind = Bind()
    limits: Limits = Limits()
    experts: Experts = Experts()
    levers: Levers = Levers()
    cache: Cache = Cache()
    adapters: Adapters = Adapters()
    evaluation: Evaluation = Evaluation()
    previews: Previews = Previews()
    retention: Retention = Retention()
    keys: Keys = Keys()
    jobs: Jobs = Jobs()
    webhooks: Webhooks = Webhooks()

    @classmethod
    def load(cls, path: Path | str | None = None) -> ServiceConfig:
        """The configuration in a TOML file; None gives the defaults. Raises UserError listing every mistake."""
        if path is None:
            return cls.of({})
        try:
            text = Path(path).read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: expected TOML: {error}") from error
        return cls.of(values, str(path))

    @classmethod
    def of(cls, values: dict[str, Any], where: str = "configuration") -> ServiceConfig:
        """The configuration of these values, a table a dict. Raises UserError listing every mistake."""
        problems = Problems()
        config = None
        try:
            # JSON's rules, since TOML has no tuples: a list is one
            config = cls.model_validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            for found in error.errors():
                _explain(found, where, problems)
        for check in CHECKS:
            check(values, where, problems)
        if config is not None:
            check_together(config, where, problems)
        problems.raise_if_any()
        assert config is not None
        return config

    @property
    def reference(self) -> str:
        """The pair to start from. Without one in the file: the champion, where there is one, else the base alone."""
        return CHAMPION if self.pair is None else self.pair

    @property
    def keys_required(self) -> bool:
        """Whether a request needs an API key."""
        return not self.bind.loopback if self.keys.required is None else self.keys.required


def _explain(error: Any, where: str, problems: Problems) -> None:
    """One of pydantic's errors as a line of ours."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        table, _, name = key.rpartition(".")
        near = difflib.get_close_matches(name, _keys(table), n=1)
        problems.add(f"{where}: {key}", "no such key", f"did you mean {near[0]}?" if near else "remove it")
        return
    found = "" if isinstance(error["input"], dict) else f", found {error['input']!r}"
    message = str(error["msg"]).removeprefix("Value error, ")
    problems.add(f"{where}: {key}", f"{message[0].lower()}{message[1:]}{found}")


def _keys(table: str) -> list[str]:
    model: Any = ServiceConfig
    for part in filter(None, table.split(".")):
        model = model.model_fields[part].annotation
    return list(model.model_fields)
