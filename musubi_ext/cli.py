"""`musubi-ext`: one verb per intention. Asking for help loads no framework."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from musubi_ext import __version__
from musubi_ext.commands import adapter, cache, client, compare, data, doctor, evaluate, host, registry, track
from musubi_ext.commands.parser import Parser
from musubi_ext.demo import command as demo
from musubi_ext.errors import UserError
from musubi_ext.generation import command as generation

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair
    from musubi_ext.generation.best_of import Ranking

INTERRUPTED = 130  # 128 + SIGINT, as shells say
CLOSED_PIPE = 141  # 128 + SIGPIPE


def build_parser() -> Parser:
    """The whole command line. `train` has musubi-tuner's own flags, which its trainer reads: see `main`."""
    parser = Parser(prog="musubi-ext", description="Train, prove, promote and serve motion adapters for Wan2.2.")
    parser.add_argument("--version", action="version", version=f"musubi-ext {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(
        name: str,
        help_text: str,
        arguments: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace], int],
    ) -> None:
        verb = verbs.add_parser(name, help=help_text, description=help_text)
        arguments(verb)
        verb.set_defaults(run=run)

    add("demo", "the whole chain on the pocket model: clips, training, gate, video", demo.add_arguments, demo.run)
    add("data", "fetch, render, caption, check or cache clips", data.add_arguments, data.run)
    add("cache", "what is cached of a data set, and what of it is stale", cache.add_arguments, cache.run)
    verbs.add_parser("train", help="train a pair of adapters, one for each expert (see: musubi-ext train --help)")
    add("host", "the musubi-tuner that trains: fetch it, or use a checkout", host.add_arguments, host.run)
    add("doctor", "what training needs, and what of it is there", doctor.add_arguments, doctor.run)
    resolved = partial(generation.run, resolve_pair=_registered_pair, make_ranking=_ranking)
    add("generate", "make a video from one or two pictures and a prompt", generation.add_arguments, resolved)
    add("evaluate", "measure a folder of videos", evaluate.add_arguments, evaluate.run)
    add("compare", "two models on the same scenes: what differs, how surely", compare.add_arguments, compare.run)
    add("adapter", "inspect, convert or verify adapter files", adapter.add_arguments, adapter.run)
    add("track", "what training runs still have to tell MLflow: list, send", track.add_arguments, track.run)
    add("registry", "registered pairs: which is live, why, and the way back", registry.add_arguments, registry.run)
    add("client", "the service: submit, status, watch, get, cancel", client.add_arguments, client.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, 1 when part of the input was left out, 2 for a mistake, 130 stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `musubi-ext … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def _run(words: list[str]) -> int:
    if words[:1] == ["train"]:  # argparse cannot hand over flags that it does not know
        from musubi_ext import wan_train_network

        return wan_train_network.main(words[1:])
    args = build_parser().parse_args(words)
    return int(args.run(args))


def _registered_pair(reference: str) -> AdapterPair:
    from musubi_ext.registry.model import load_pair

    return load_pair(reference)


def _ranking(metric: str) -> Ranking:
    from musubi_ext.ranking import ranking

    return ranking(metric)


if __name__ == "__main__":
    sys.exit(main())
