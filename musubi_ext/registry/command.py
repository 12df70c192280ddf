"""`musubi-ext registry list | show | register | rollback`."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs and their flags. Costs nothing: MLflow is loaded when one of them runs."""
    verbs = parser.add_subparsers(dest="registry_verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="every model: its versions and what the aliases point to", parents=[_store()])
    show = verbs.add_parser("show", help="one version: files, checksums, run, gate", parents=[_store()])
    show.add_argument("reference", metavar="NAME@ALIAS|NAME/VERSION")
    register = verbs.add_parser("register", help="store a pair as a new version", parents=[_store()])
    register.add_argument("pair", type=Path, metavar="DIR", help="folder with NAME.pair.json, or that file")
    register.add_argument("--name", required=True, help="registered model")
    register.add_argument("--run_id", help="the pair's training run; its artifacts will hold the files")
    register.add_argument("--candidate", action="store_true", help="point the alias candidate at the new version")
    rollback = verbs.add_parser("rollback", help="swap champion and previous", parents=[_store()])
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument("--reason", required=True, help="kept on the version that steps down")


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed; prints its answer and returns the exit status. Raises UserError."""
    return {"list": _list, "show": _show, "register": _register, "rollback": _rollback}[args.registry_verb](args)


def _store() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--mlflow_tracking_uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, else mlflow.db in this folder"
    )
    return parent


def _list(args: argparse.Namespace) -> int:
    from musubi_ext.registry.store import connect, tracking_uri
    from musubi_ext.registry.versions import aliases

    client = connect(tracking_uri(args.mlflow_tracking_uri))
    models = client.search_registered_models()
    if not models:
        print("no registered model yet: musubi-ext registry register DIR --name NAME")
    for model in models:
        count = len(client.search_model_versions(f"name = '{model.name}'"))
        pointing = ", ".join(f"{alias} = {number}" for alias, number in sorted(aliases(client, model.name).items()))
        print(f"{model.name}  {count} version{'s' if count != 1 else ''}  {pointing or 'no alias'}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from musubi_ext.registry.names import parse_reference
    from musubi_ext.registry.store import connect, tracking_uri
    from musubi_ext.registry.versions import aliases, find_version

    client = connect(tracking_uri(args.mlflow_tracking_uri))
    version = find_version(client, parse_reference(args.reference))
    number = int(version.version)
    pointing = sorted(alias for alias, to in aliases(client, version.name).items() if to == number)
    created = datetime.fromtimestamp(version.creation_timestamp / 1000).isoformat(" ", "seconds")
    rows = {"model": f"{version.name}/{number}", "aliases": ", ".join(pointing) or "none", "created": created}
    rows |= {"run": version.run_id, **dict(sorted(version.tags.items()))}
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width}}  {value}")
    return 0


def _register(args: argparse.Namespace) -> int:
    from musubi_ext.adapters.pair import AdapterPair
    from musubi_ext.registry.model import register_pair
    from musubi_ext.registry.promotion import set_candidate

    uri = args.mlflow_tracking_uri
    number = register_pair(AdapterPair.load(args.pair), args.name, run_id=args.run_id, uri=uri)
    if args.candidate:
        set_candidate(args.name, number, uri=uri)
    print(f"models:/{args.name}/{number}" + ("  (candidate)" if args.candidate else ""))
    return 0


def _rollback(args: argparse.Namespace) -> int:
    from musubi_ext.registry.promotion import rollback

    result = rollback(args.name, args.reason, uri=args.mlflow_tracking_uri)
    print(f"{result.name}: champion = {result.champion}, previous = {result.previous}")
    return 0
