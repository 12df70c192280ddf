"""`musubi-ext registry list | show | diff`: what is registered, whether it is whole, and what differs."""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from musubi_ext.commands.registry_output import json_flag, moment, print_json, print_table, say, text
from musubi_ext.commands.registry_store import REFERENCE, connected, store_flag
from musubi_ext.errors import UserError

_DAMAGED = 1  # exit status
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


def add_list(verbs: Any) -> None:
    """`registry list`."""
    help_text = "every model: its versions and what the aliases point to"
    verbs.add_parser("list", help=help_text, parents=[store_flag(), json_flag()])


def add_show(verbs: Any) -> None:
    """`registry show`."""
    help_text = "one version: files and whether they verify, run, evidence, gate, history"
    show = verbs.add_parser("show", help=help_text, parents=[store_flag(), json_flag()])
    show.add_argument("reference", metavar=REFERENCE)
    show.add_argument("--no_verify", action="store_true", help="do not download the files to compare their checksums")


def add_diff(verbs: Any) -> None:
    """`registry diff`."""
    help_text = "what differs between two versions: training, data, settings, numbers, files"
    diff = verbs.add_parser("diff", help=help_text, parents=[store_flag(), json_flag()])
    diff.add_argument("a", metavar=REFERENCE)
    diff.add_argument("b", metavar=REFERENCE)
    diff.add_argument("--weights", action="store_true", help="download both pairs and compare what they add to a base")


def run_list(args: argparse.Namespace) -> int:
    """Print every model; a hint where there is none."""
    from musubi_ext.registry.versions import models

    client = connected(args)
    found = [_model(client, model) for model in models(client)]
    if args.json:
        print_json(found)
    elif not found:
        print("no registered model yet: musubi-ext registry register DIR --name NAME")
    else:
        own = ("candidate", "champion", "previous")
        rows = [
            (
                model["name"],
                "not ours" if model["versions"] is None else model["versions"],
                *(model["aliases"].get(alias) for alias in own),
                ", ".join(f"{alias} = {to}" for alias, to in model["aliases"].items() if alias not in own) or None,
                model["newest"],
            )
            for model in found
        ]
        columns = ("model", "versions", *own, "other aliases", "newest version")
        print_table("registered models", columns, rows, right=("versions", *own))
    return 0


def _model(client: Any, model: Any) -> dict[str, Any]:
    from musubi_ext.registry.names import check_name
    from musubi_ext.registry.versions import versions

    try:
        found = versions(client, check_name(model.name))
    except UserError:
        found = None  # another program's: its name may not even be asked for
    return {
        "name": model.name,
        "versions": None if found is None else len(found),
        "aliases": {alias: int(number) for alias, number in sorted(model.aliases.items())},
        "newest": moment(found[0].creation_timestamp) if found else None,
    }


def run_show(args: argparse.Namespace) -> int:
    """Print one version; 1 when one of its files is not the registered one."""
    from musubi_ext.registry.names import parse_reference
    from musubi_ext.registry.versions import find_version

    client = connected(args)
    facts = _facts(client, find_version(client, parse_reference(args.reference)), verify=not args.no_verify)
    if args.json:
        print_json(facts)
    else:
        _print_facts(facts)
    return _DAMAGED if facts["problems"] or any(file["problem"] for file in facts["files"]) else 0


def _facts(client: Any, version: Any, *, verify: bool) -> dict[str, Any]:
    from musubi_ext.registry.promotion_log import EVENT, history
    from musubi_ext.registry.versions import FILE_TAG, FOLDER_TAG, aliases

    number = int(version.version)
    files, problems = _files(client, version, verify)
    hidden = (FILE_TAG, FOLDER_TAG, EVENT)
    events = [event for event in history(client, version.name) if event.version == number]
    return {
        "name": version.name,
        "version": number,
        "aliases": sorted(alias for alias, to in aliases(client, version.name).items() if to == number),
        "created": moment(version.creation_timestamp),
        "run": version.run_id,
        "source": version.source,
        "pages": _pages(client, version),
        "files": files,
        "problems": problems,
        "tags": {key: value for key, value in sorted(version.tags.items()) if not key.startswith(hidden)},
        "history": [event.as_dict() | {"sentence": event.sentence()} for event in events],
    }


def _pages(client: Any, version: Any) -> dict[str, str]:
    """Where a browser shows the version and its evidence; nothing for a store that has no server."""
    from musubi_ext.registry.places import evidence_place
    from musubi_ext.registry.store import without_password

    root = without_password(client.tracking_uri).rstrip("/")
    if not root.startswith(("http://", "https://")):
        return {}
    pages = {"version": f"{root}/#/models/{version.name}/versions/{version.version}"}
    if place := evidence_place(version):
        experiment = client.get_run(place[0]).info.experiment_id
        pages["evidence"] = f"{root}/#/experiments/{experiment}/runs/{place[0]}/artifacts/{place[1]}"
    return pages


def _files(client: Any, version: Any, verify: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """name, sha256, verified (None: not looked), problem of each file; what is wrong with the version as a whole."""
    from musubi_ext.registry.downloads import store_problems
    from musubi_ext.registry.versions import checksums

    try:
        digests = checksums(version)
        wrong: dict[str, str | None] = dict.fromkeys(digests)
        if verify:
            with tempfile.TemporaryDirectory() as folder:
                wrong = store_problems(client, version, Path(folder))
    except UserError as error:
        return [], list(error.problems)
    return [
        {"name": name, "sha256": digests.get(name), "verified": problem is None if verify else None, "problem": problem}
        for name, problem in wrong.items()
    ], []


def _print_facts(facts: dict[str, Any]) -> None:
    rows = [
        ("aliases", ", ".join(facts["aliases"]) or "none"),
        ("created", facts["created"]),
        ("run", facts["run"]),
        ("source", facts["source"]),
        *((f"page of the {what}", page) for what, page in facts["pages"].items()),
        *facts["tags"].items(),
    ]
    print_table(f"{facts['name']}/{facts['version']}", ("what", "value"), rows)
    states = {True: "verified", False: "REFUSED", None: "not checked"}
    files = [(file["name"], states[file["verified"]], file["sha256"]) for file in facts["files"]]
    print_table("files", ("file", "state", "sha256"), files)
    for file in facts["files"]:
        if file["problem"]:
            say(f"{file['name']}: {file['problem']}")
    for line in (*facts["problems"], *(event["sentence"] for event in facts["history"])):
        say(line)


def run_diff(args: argparse.Namespace) -> int:
    """Print what differs."""
    from musubi_ext.registry.diff import SECTIONS, diff_versions
    from musubi_ext.registry.names import parse_reference
    from musubi_ext.registry.versions import find_version

    references = [parse_reference(reference) for reference in (args.a, args.b)]
    client = connected(args)
    found = diff_versions(client, *(find_version(client, one) for one in references), weights=args.weights)
    if args.json:
        print_json(found.as_dict())
        return 0
    for section in SECTIONS:
        of = [one for one in found.differences if one.section == section]
        rows = [
            (one.key, _short(one.a), _short(one.b), _signed(one.change)) for one in of if None not in (one.a, one.b)
        ]
        if rows:
            print_table(section, ("what", found.a, found.b, "change"), rows, right=("change",))
        for name, alone in ((found.a, [one for one in of if one.b is None]), (found.b, [o for o in of if o.a is None])):
            if alone:
                say(f"{section}, only of {name}: {', '.join(one.key for one in alone)}")
    if not found.differences:
        print(f"{found.a} and {found.b} are the same, to the last bit")
    if found.weights is not None:
        rows = [
            (expert, *(one[key] for key in ("norm_a", "norm_b", "cosine", "relative_difference", "identical")))
            for expert, one in found.weights.items()
        ]
        columns = ("expert", "‖a‖", "‖b‖", "cosine", "‖a − b‖ / ‖a‖", "identical")
        print_table("what the pairs add to the weights", columns, rows, right=columns[1:5])
    for note in found.notes:
        say(note)
    return 0


def _short(value: Any) -> Any:
    """A digest by its first digits, wherever it stands in a text; --json has it whole."""
    return _DIGEST.sub(lambda found: f"{found[0][:12]}…", value) if isinstance(value, str) else value


def _signed(change: float | None) -> str:
    return "" if change is None else ("+" if change > 0 else "") + text(change)
