"""Stage `register`: the pair becomes a version, a candidate, and the champion if the gate lets it pass."""

from __future__ import annotations

import json
import time
from typing import Any

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.demo.measures import load_results
from musubi_ext.demo.options import EXPERIMENT, MODEL, Layout
from musubi_ext.demo.report import rows, summary
from musubi_ext.demo.stages import Demo
from musubi_ext.evaluation.gate import Decision, decide
from musubi_ext.registry.model import register_pair
from musubi_ext.registry.promotion import promote, set_candidate
from musubi_ext.registry.store import connect
from musubi_ext.registry.tracking import PairTracking
from musubi_ext.registry.versions import aliases
from musubi_ext.storage import sha256, write_json

_EVIDENCE = "evaluation.sha256"  # tag of a version: the summary of results that it was registered with


def register(demo: Demo) -> None:
    """Register, decide, promote; write `summary.json` and keep it with the filmstrips at the pair's run."""
    layout, started = demo.layout, time.perf_counter()
    results = load_results(layout)
    table = rows(results, json.loads((layout.videos / "seconds.json").read_text(encoding="utf-8")))
    decision = decide(results["base"], results["pair"])
    pair, uri = AdapterPair.load(layout.pair), layout.tracking_uri
    run = str(pair.manifest["training"]["mlflow_run"])
    version = _version(pair, layout, table, run)
    set_candidate(MODEL, version, uri=uri)
    promote(MODEL, decision, table, files=[layout.results / "base.json", layout.results / "pair.json"], uri=uri)
    registered = {"name": MODEL, "version": version, "aliases": _aliases(layout, version)}
    with PairTracking(uri, experiment=EXPERIMENT, run_id=run, spool_directory=layout.root / "mlflow_spool") as tracking:
        where, taken = {"id": run, "ui": tracking.where()}, time.perf_counter() - started
        write_json(layout.summary, summary(demo, table, registered, decision.verdict, where, taken))
        _record(tracking, layout, table, decision)


def _record(tracking: PairTracking, layout: Layout, table: dict[str, Any], decision: Decision) -> None:
    tracking.log_artifact(layout.summary, "evaluation")
    tracking.log_artifact(layout.results, "evaluation/results")
    tracking.log_artifact(layout.filmstrips, "filmstrips")
    tracking.set_tags({"gate": decision.verdict})
    tracking.log_metrics(_numbers(table), 0)


def _numbers(table: dict[str, Any]) -> dict[str, float]:
    """`pair.psnr`, `pair.subject_drift`, …: what can be compared between runs in MLflow's page."""
    numbers = {}
    for model in ("truth", "base", "pair"):
        for name, value in table[model].items():
            found = value["median"] if name == "subject_drift" and value else value
            if isinstance(found, (int, float)):
                numbers[f"{model}.{name}"] = float(found)
    return numbers


def _version(pair: AdapterPair, layout: Layout, table: dict[str, Any], run: str) -> int:
    """The version of this pair with these results: the one an interrupted demo registered, or a new one."""
    client = connect(layout.tracking_uri)
    evidence = f"{sha256(pair.path)}-{sha256(layout.results / 'base.json')}-{sha256(layout.results / 'pair.json')}"
    for version in client.search_model_versions(f"name = '{MODEL}'"):
        if version.tags.get(_EVIDENCE) == evidence:
            return int(version.version)
    numbers = {"sha256": evidence, **_numbers(table)}
    return register_pair(pair, MODEL, evaluation=numbers, run_id=run, uri=layout.tracking_uri, experiment=EXPERIMENT)


def _aliases(layout: Layout, version: int) -> list[str]:
    return sorted(name for name, number in aliases(connect(layout.tracking_uri), MODEL).items() if number == version)
