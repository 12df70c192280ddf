"""`musubi-ext generate`: one picture, or two, and a sentence become an mp4."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import Problems, UserError

if TYPE_CHECKING:
    from musubi_ext.adapters.pair import AdapterPair
    from musubi_ext.generation.best_of import Ranked, Ranking
    from musubi_ext.generation.request import GenerationRequest

_SETTINGS = ("steps", "seed", "frames", "fps", "shift", "guidance", "guidance_2", "negative_prompt", "strength_high",
             "strength_low")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `generate`. What is not given comes from the pair's manifest, then from the base's own settings."""
    what = parser.add_argument_group("what to make")
    what.add_argument("--first", required=True, metavar="IMAGE", help="first frame: PNG, JPEG, WebP; cropped to --size")
    what.add_argument("--last", metavar="IMAGE", help="last frame; the video goes from the first to this one")
    what.add_argument("--prompt", required=True, help="what is seen and how the camera moves")
    what.add_argument("--negative_prompt", help="what should not be seen; needs a guidance above 1")
    what.add_argument("--size", metavar="WxH", help="pixels, both divisible by 16")
    what.add_argument("--frames", type=int, help="number of frames, 4n+1")
    what.add_argument("--fps", type=float, help="frames per second of the file")
    how = parser.add_argument_group("how to make it")
    how.add_argument("--base", default="pocket-i2v", help="pocket-i2v or a local Wan2.2 pipeline folder (%(default)s)")
    how.add_argument("--pair", metavar="DIR|models:/NAME@ALIAS", help="pair of adapters, on disk or registered")
    how.add_argument("--strength_high", type=float, help="strength of the pair in the high-noise expert, 0 to 2")
    how.add_argument("--strength_low", type=float, help="strength of the pair in the low-noise expert, 0 to 2")
    how.add_argument("--steps", type=int, help="denoising steps")
    how.add_argument("--seed", type=int, help="the same seed gives the same video (default: 0)")
    how.add_argument("--shift", type=float, help="flow shift")
    how.add_argument("--guidance", type=float, help="guidance of the high-noise expert; 1 is none")
    how.add_argument("--guidance_2", type=float, help="guidance of the low-noise expert; 1 is none")
    how.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to run (%(default)s)")
    many = parser.add_argument_group("choose among several")
    many.add_argument(
        "--best_of", type=int, metavar="N", help="make N videos (seed, seed + 1, …), keep the best; scores beside it"
    )
    many.add_argument("--rank_by", metavar="METRIC", help="by which metric: drift (default), flicker, or a full name")
    out = parser.add_argument_group("where it goes")
    out.add_argument(
        "-o", "--output", required=True, metavar="FILE.mp4", help="H.264; carries the request in its metadata"
    )
    out.add_argument("--strip", metavar="FILE.png", help="also draw a filmstrip of the video")
    out.add_argument("--dry-run", action="store_true", help="check everything, print the settings, make nothing")


def run(
    args: argparse.Namespace,
    resolve_pair: Callable[[str], AdapterPair] | None = None,
    make_ranking: Callable[[str], Ranking] | None = None,
) -> int:
    """Make the video that `args` describe; returns 0. Raises UserError listing everything wrong, with nothing written.

    `resolve_pair` turns a registry address (models:/…) into a pair, `make_ranking` a metric's name into a ranking of
    videos; without them such an address and --best_of are refused.
    """
    from musubi_ext.generation.circle_rotate import CircleRotate
    from musubi_ext.generation.pipeline import choose_device

    problems: list[str] = []
    folder = _collect(problems, lambda: _folder(args.base))
    _collect(problems, lambda: choose_device(args.device))
    _collect(problems, lambda: _check_outputs(args))
    pair = _collect(problems, lambda: _pair(args, folder, resolve_pair))
    request = _collect(problems, lambda: _request(args, pair))
    ranking = _collect(problems, lambda: _ranking(args, make_ranking))
    if problems:
        raise UserError(problems)
    assert request is not None
    assert folder is not None
    if args.dry_run:
        _print_plan(args, request, pair, folder)
        return 0
    _make(CircleRotate(args.base, pair, device=args.device), request, args, ranking)
    return 0


def _collect(problems: list[str], step: Callable[[], Any]) -> Any:
    """The step's result; a UserError's lines are added to `problems` and None is returned."""
    try:
        return step()
    except UserError as error:
        problems.extend(error.problems)
        return None


def _folder(base: str) -> Path:
    from musubi_ext.generation.pipeline import resolve_base

    return resolve_base(base)


def _pair(
    args: argparse.Namespace, folder: Path | None, resolve_pair: Callable[[str], AdapterPair] | None
) -> AdapterPair | None:
    """The pair asked for, if it fits the base."""
    from musubi_ext.generation.pair import check_fits, open_pair

    if args.pair is None:
        given = [f"--{name}" for name in ("strength_high", "strength_low") if getattr(args, name) is not None]
        if given:
            raise UserError(f"{', '.join(given)}: there is no pair to be strong (add --pair DIR)")
        return None
    registered = args.pair.startswith("models:/") and resolve_pair is not None
    pair = resolve_pair(args.pair) if registered and resolve_pair is not None else open_pair(args.pair)
    if pair is not None and folder is not None:
        check_fits(pair, args.base, folder)
    return pair


def _request(args: argparse.Namespace, pair: AdapterPair | None) -> GenerationRequest:
    from musubi_ext.generation.pair import defaults
    from musubi_ext.generation.request import GenerationRequest

    given: dict[str, Any] = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    if args.size is not None:
        given["size"] = _size(args.size)
    settings = defaults(args.base, pair) | given
    return GenerationRequest(prompt=args.prompt, first=args.first, last=args.last, **settings)


def _ranking(args: argparse.Namespace, make_ranking: Callable[[str], Ranking] | None) -> Ranking | None:
    """What to choose by, if there is a choice; what is wrong with both flags is said at once."""
    from musubi_ext.generation.best_of import check_count

    if args.best_of is None:
        if args.rank_by is not None:
            raise UserError(f"--rank_by {args.rank_by}: there is nothing to choose from (add --best_of N)")
        return None
    problems = Problems()
    problems.collect(lambda: check_count(args.best_of, args.seed or 0))
    if make_ranking is None:
        problems.add(f"--best_of {args.best_of}", "nothing here measures videos", "use musubi-ext generate")
        problems.raise_if_any()
    assert make_ranking is not None
    make = make_ranking
    ranking = problems.collect(lambda: make(args.rank_by or "drift"))
    problems.raise_if_any()
    return ranking


def _size(text: str) -> Any:
    """ "64x48" → (64, 48). Anything else is passed on as it is, for the request to refuse beside its other mistakes."""
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text.strip())
    return (int(match[1]), int(match[2])) if match else text


def _check_outputs(args: argparse.Namespace) -> None:
    problems = Problems()
    for flag, path, suffix in (("--output", args.output, ".mp4"), ("--strip", args.strip, ".png")):
        if path is None:
            continue
        if Path(path).suffix.lower() != suffix:
            problems.add(f"{flag} {path}", f"expected a name that ends in {suffix}")
        elif Path(path).is_dir():
            problems.add(f"{flag} {path}", "is a directory", "give a file name")
        elif (blocked := _not_a_folder(Path(path).parent)) is not None:
            problems.add(f"{flag} {path}", f"{blocked} is not a directory")
    problems.raise_if_any()


def _not_a_folder(folder: Path) -> Path | None:
    """The part of `folder` that exists and is a file, if there is one: no directory can be made below it."""
    return next((part for part in (folder, *folder.parents) if part.exists() and not part.is_dir()), None)


def _print_plan(args: argparse.Namespace, request: GenerationRequest, pair: AdapterPair | None, folder: Path) -> None:
    from musubi_ext.generation.pipeline import expert_steps

    high, low = expert_steps(folder, request.steps, request.shift)
    plan = request.record()
    plan |= {"size": "x".join(map(str, request.size)), "first": args.first, "last": args.last or "none"}
    plan |= {"base": args.base, "pair": "none" if pair is None else pair.manifest["name"], "device": args.device}
    plan |= {"steps": f"{request.steps} ({high} by the high-noise expert, then {low} by the low-noise one)"}
    if args.best_of is not None:
        plan |= {"best_of": f"{args.best_of} seeds from {request.seed}, by {args.rank_by or 'drift'}"}
    plan |= {"output": args.output, "strip": args.strip or "none"}
    for name, value in plan.items():
        print(f"{name:16} {value}")


def _make(rotate: Any, request: GenerationRequest, args: argparse.Namespace, ranking: Ranking | None) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from musubi_ext.generation.best_of import best_of

    console = Console(stderr=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("denoise", total=request.steps)

        def progress(done: int, steps: int) -> None:
            bar.update(task, completed=done, total=steps)

        ranked = None if ranking is None else best_of(rotate, request, args.best_of, ranking, progress)
        video = rotate.run(request, progress) if ranked is None else ranked.best
    path = video.save(args.output)
    for note in video.notes:
        console.print(f"note: {note}", markup=False)
    print(f"{path}: {len(video.frames)} frames of {request.size[0]}x{request.size[1]} in {video.seconds:.1f} s")
    if ranked is not None:
        _say(ranked, Path(args.output).with_suffix(".best_of.json"))
    if args.strip:
        from musubi_ext.filmstrip import save_filmstrip

        label = "base" if rotate.pair is None else str(rotate.pair.manifest["name"])
        caption = f"{request.prompt}, seed {video.request['seed']}"
        print(save_filmstrip(args.strip, {label: video.frames}, caption=caption))


def _say(ranked: Ranked, path: Path) -> None:
    """Every candidate on one line, best first; all scores in a file beside the video."""
    ranked.write(path)
    for candidate in ranked.candidates:
        value = "unavailable" if candidate.value is None else f"{candidate.value:.4g} {ranked.unit}".strip()
        reason = f" ({candidate.state}: {candidate.reason})" if candidate.reason else ""
        print(f"{candidate.rank:3}. seed {candidate.seed}: {ranked.metric} {value}{reason}")
    print(path)
