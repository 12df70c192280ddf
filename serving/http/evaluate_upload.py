"""POST /v1/evaluate: a stranger's video is measured in a process of its own, with limits, that can be killed.

python -m serving.http.evaluate_upload VIDEO   # the request, as JSON, on standard input; the scores on standard output
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError
from serving.config import Evaluation, Limits
from serving.http.http_errors import HttpError

SECONDS = 120.0
MEMORY = 8 * 2**30  # bytes of address space; torch alone takes three of them
WAITING, WAITING_EACH = 4, 1  # uploads that may wait for the one that is measured: of all, of one owner
_ROOT = Path(__file__).resolve().parents[2]


class Evaluator:
    """One upload at a time; WAITING more may wait, and of one owner WAITING_EACH beside one that is measured."""

    def __init__(self, evaluation: Evaluation, limits: Limits, seconds: float = SECONDS) -> None:
        self.evaluation, self.limits, self.seconds = evaluation, limits, seconds
        self._one, self._asked = asyncio.Lock(), Counter[str]()  # by owner

    async def scores(self, data: bytes, metrics: list[str], caption: str, owner: str = "") -> dict[str, Any]:
        """Metric → result. Raises HttpError: 400 for what is no video or no metric, 503 and 429 when too many wait."""
        if self._asked[owner] > WAITING_EACH:
            raise HttpError(429, "two of your videos are being measured already", retry_after=10)
        if self._asked.total() > WAITING:
            raise HttpError(503, "too many videos wait to be measured", retry_after=10)
        self._asked[owner] += 1
        try:
            async with self._one:
                return await self._measured(data, metrics, caption)
        finally:
            self._asked -= Counter({owner: 1})

    async def _measured(self, data: bytes, metrics: list[str], caption: str) -> dict[str, Any]:
        evaluation = self.evaluation.model_dump(mode="json") | ({"metrics": metrics} if metrics else {})
        asked = {"evaluation": evaluation, "volume": self.limits.volume, "caption": caption}
        with tempfile.TemporaryDirectory(prefix="evaluate-") as folder:
            path = Path(folder) / "video"  # never the client's name
            path.write_bytes(data)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "serving.http.evaluate_upload", str(path)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=_ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            try:
                out, _ = await asyncio.wait_for(process.communicate(json.dumps(asked).encode()), self.seconds)
            except TimeoutError:
                raise HttpError(400, f"video: not measured within {self.seconds:g} seconds", param="video") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        return _read(out)


def _read(out: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:  # it was killed, by its limits say
        raise HttpError(400, "video: could not be measured", param="video") from None
    if "problems" in answer:
        problems = [problem.partition("VIDEO: ")[2] or problem for problem in answer["problems"]]
        named = any(problem.startswith("metrics") for problem in problems)
        raise HttpError(400, "; ".join(problems), param="metrics" if named else "video")
    scores: dict[str, Any] = answer["scores"]
    return scores


def main() -> None:
    """Measure one file; what is wrong with it goes to standard output too."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    path, asked = Path(sys.argv[1]), json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        answer = {"scores": _scores(path, asked)}
    except UserError as error:
        answer = {"problems": [problem.replace(str(path), "VIDEO") for problem in error.problems]}
    json.dump(answer, sys.stdout, allow_nan=False)


def _scores(path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from musubi_ext.evaluation.features import ModelSource
    from musubi_ext.evaluation.masks import MaskSource
    from musubi_ext.evaluation.suite import evaluate, select
    from musubi_ext.orbits.decode import pool
    from serving.making.measures import metric_names

    evaluation = Evaluation.model_validate_json(json.dumps(asked["evaluation"]))
    select(metric_names(evaluation))  # a wrong name is said before anything is decoded
    info = pool.probe(path)
    if info.width * info.height * info.frames > asked["volume"]:
        found = f"{info.frames} frames of {info.width}x{info.height}"
        raise UserError(f"VIDEO: {found} are more than {asked['volume']:,} pixels")
    results = evaluate(
        path,
        metrics=metric_names(evaluation),
        masks=MaskSource.FLOW,
        models=ModelSource(Path(evaluation.weights)) if evaluation.weights else None,
        caption=asked["caption"],
        profile=evaluation.profile,
        threads=evaluation.threads or None,
    )
    return {name: asdict(result) for name, result in results.items()}


if __name__ == "__main__":
    main()
