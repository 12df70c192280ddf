"""Stage `register`: the pair becomes a version, a candidate, and the champion if the gate lets it pass."""

from __future__ import annotations

import json
from typing import Any

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.demo.measures import load_results
from musubi_ext.demo.options import EXPERIMENT, MODEL, Layout
from musubi_ext.demo.report import rows, summary
from musubi_ext.demo.stages import Demo
from musubi_ext.errors import UserError
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
    layout = demo.layout
    results = load_results(layout)
    table = rows(results, json.loads((layout.videos / "seconds.json").read_text(encoding="utf-8")))
    decision = decide(results["base"], results["pair"])
    run = pair_run(layout)
    strips = sorted(layout.filmstrips.glob("*.png"))
    version = _version(demo, table, run)
    uri = layout.tracking_uri
    set_candidate(MODEL, version, uri=uri)
    promote(MODEL, decision, table, files=[layout.results / "base.json", layout.results / "pair.json"], uri=uri)
    registered = {"name": MODEL, "version": version, "aliases": _aliases(layout, version)}
    with PairTracking(uri, experiment=EXPERIMENT, run_id=run, spool_directory=layout.root / "mlflow_spool") as tracking:
        where = {"id": run, "ui": tracking.where()}
        write_json(layout.summary, summary(demo, table, registered, decision.verdict, where))
        _record(tracking, layout, table, decision)
        for strip in strips:
            tracking.log_artifact(strip, "filmstrips")


def _record(tracking: PairTracking, layout: Layout, table: dict[str, Any], decision: Decision) -> None:
    tracking.log_artifact(layout.summary, "evaluation")
    tracking.log_artifact(layout.results, "evaluation")
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


def _version(demo: Demo, table: dict[str, Any], run: str) -> int:
    """The version of this pair with these results: the one an interrupted demo registered, or a new one."""
    layout = demo.layout
    pair = AdapterPair.load(layout.pair)
    client = connect(layout.tracking_uri)
    evidence = f"{sha256(pair.path)}-{sha256(layout.results / 'base.json')}-{sha256(layout.results / 'pair.json')}"
    for version in client.search_model_versions(f"name = '{MODEL}'"):
        if version.tags.get(_EVIDENCE) == evidence:
            return int(version.version)
    numbers = {"sha256": evidence, **_numbers(table)}
    return register_pair(pair, MODEL, evaluation=numbers, run_id=run, uri=layout.tracking_uri, experiment=EXPERIMENT)


def pair_run(layout: Layout) -> str:
    """The MLflow run that trained the pair. Raises UserError when it is not in the demo's store."""
    client = connect(layout.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = [] if experiment is None else client.search_runs(
        [experiment.experiment_id],
        "tags.`musubi_ext.kind` = 'pair' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )  # fmt: skip
    if not found:
        raise UserError(f"{layout.tracking_uri}: no finished run trained a pair (start the demo over with --fresh)")
    return str(found[0].info.run_id)


def _aliases(layout: Layout, version: int) -> list[str]:
    return sorted(name for name, number in aliases(connect(layout.tracking_uri), MODEL).items() if number == version)
