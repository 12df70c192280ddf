"""`musubi-ext adapter inspect | convert | verify`: one LoRA file, or a pair."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musubi_ext.errors import Problems

if TYPE_CHECKING:
    from musubi_ext.adapters.files import LoraFile

FORMATS = ("musubi", "diffusers", "comfyui")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs and their flags."""
    verbs = parser.add_subparsers(dest="adapter_verb", required=True, metavar="VERB")
    for name, text in (("inspect", "what is in it"), ("verify", "check every checksum, shape and number")):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("adapter", type=Path, metavar="PATH", help="a .safetensors file, a pair's folder or manifest")
    convert = verbs.add_parser("convert", help="spell the keys of one LoRA file as another program reads them")
    convert.add_argument("adapter", type=Path, metavar="FILE", help="a .safetensors file, in any of the spellings")
    convert.add_argument("--to", required=True, choices=FORMATS, help="which program's keys")
    convert.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="the file to write")
    convert.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed; returns the exit status. Raises UserError."""
    return {"inspect": _inspect, "verify": _verify, "convert": _convert}[args.adapter_verb](args)


def _inspect(args: argparse.Namespace) -> int:
    rows = dict(_file_rows(args.adapter) if _is_file(args.adapter) else _pair_rows(args.adapter))
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    if _is_file(args.adapter):
        lora = _read(args.adapter)
        print(f"{args.adapter}: a sound {lora.format.value} LoRA of {_count(lora)} linears")
        return 0
    from musubi_ext.adapters.pair import AdapterPair

    pair = AdapterPair.load(args.adapter)
    pair.verify()
    print(f"{args.adapter}: pair {pair.manifest['name']} is whole, both files are what its manifest says")
    return 0


def _convert(args: argparse.Namespace) -> int:
    from musubi_ext.adapters.files import write_lora
    from musubi_ext.adapters.formats import Format

    problems = Problems()
    if args.output.suffix != ".safetensors":
        problems.add(f"--output {args.output}", "expected a name that ends in .safetensors")
    if args.adapter.is_dir() or args.adapter.suffix == ".json":
        problems.add(args.adapter, "expected one .safetensors file", "convert NAME_h and NAME_l one after the other")
    if args.output.exists() and not args.overwrite:
        problems.add(f"--output {args.output}", "exists", "choose another name, or add --overwrite")
    problems.raise_if_any()
    lora = _read(args.adapter)
    write_lora(args.output, lora.tensors, lora.metadata, Format(args.to))
    print(f"{args.output}: {lora.format.value} → {args.to}, {_count(lora)} linears, alpha kept")
    return 0


def _is_file(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _read(path: Path) -> LoraFile:
    from musubi_ext.adapters.files import read_lora

    return read_lora(path)


def _count(lora: LoraFile) -> int:
    from musubi_ext.adapters.formats import modules

    return len(modules(lora.tensors))


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    from musubi_ext.adapters.updates import updates
    from musubi_ext.storage import sha256

    lora = _read(path)
    found = updates(lora.tensors).values()
    yield "file", path
    yield "format", lora.format.value
    yield "linears", len(found)
    yield "without effect", sum(not update.has_effect() for update in found)
    yield "rank", _listed({update.rank for update in found})
    yield "alpha", _listed({update.alpha for update in found})
    yield "dtype", _listed({str(update.down.dtype).removeprefix("torch.") for update in found})
    yield "parameters", f"{sum(update.down.numel() + update.up.numel() for update in found):,}"
    yield "bytes", f"{path.stat().st_size:,}"
    yield "sha256", sha256(path)
    yield from ((f"metadata {key}", value) for key, value in sorted(lora.metadata.items()))


def _pair_rows(path: Path) -> Iterator[tuple[str, Any]]:
    from musubi_ext.adapters.pair import AdapterPair

    yield from _flat(AdapterPair.load(path).manifest)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"experts": {"high": {"rank": 16}}} → ("experts.high.rank", 16)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _listed(values: set[Any]) -> str:
    return ", ".join(map(str, sorted(values)))
