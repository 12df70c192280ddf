"""Register, point an alias and load a pair of 2 × 155 MB: with the cache, and as MLflow downloads it each time.

    python benchmarks/registry.py                    # on a SQLite file
    python benchmarks/registry.py --uri http://…     # on a server; its model `benchmark` gets a version more

Every load goes from a reference (`models:/benchmark@candidate`) to a verified pair, the question to the store included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow.artifacts
import torch
from tables import insert, machine, table

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.registry.model import load_pair, register_pair
from musubi_ext.registry.promotion import set_candidate
from musubi_ext.registry.store import connect, tracking_uri
from musubi_ext.storage import write_json

NAME = "benchmark"
GOAL = 0.05  # seconds of a second load
DIM, FFN, LAYERS = 5120, 13824, 40  # an expert of Wan2.2-I2V-A14B


def lora(rank: int, seed: int, dim: int = DIM, ffn: int = FFN, layers: int = LAYERS) -> dict[str, torch.Tensor]:
    """All ten linears of every block, bfloat16: 155 MB at rank 16 and A14B's size."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"{kind}_attn_{name}": (dim, dim) for kind in ("self", "cross") for name in "qkvo"}
    shapes |= {"ffn_0": (dim, ffn), "ffn_2": (ffn, dim)}
    state = {}
    for block in range(layers):
        for module, (inputs, outputs) in shapes.items():
            key = f"lora_unet_blocks_{block}_{module}"
            state[f"{key}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator).bfloat16()
            state[f"{key}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator).bfloat16()
            state[f"{key}.alpha"] = torch.tensor(float(rank)).bfloat16()
    return state


def timed(action: Callable[[], object], repeats: int = 1) -> list[float]:
    """Seconds of each of `repeats` calls."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return taken


def measure(pair: AdapterPair, uri: str, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds by what was done; the cache is `folder`/cache, empty at first."""
    os.environ["MUSUBI_EXT_CACHE"] = str(folder / "cache")
    client = connect(uri)  # makes the tables of a new file, which takes seconds
    versions: list[int] = []
    found = {"register": timed(lambda: versions.append(register_pair(pair, NAME, uri=uri)))}
    found["point an alias"] = timed(lambda: set_candidate(NAME, versions[0], uri=uri))
    reference = f"models:/{NAME}@candidate"
    found["first load"] = timed(lambda: load_pair(reference, uri=uri))
    found["second load"] = timed(lambda: load_pair(reference, uri=uri), repeats)

    def download() -> None:
        source = client.get_model_version_download_uri(NAME, str(versions[0]))
        with tempfile.TemporaryDirectory(dir=folder) as target:
            mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=target, tracking_uri=uri)

    found["MLflow's download, each time"] = timed(download, 3)
    return found


def markdown(document: Mapping[str, Any]) -> str:
    """The table, and the goal."""
    times = {what: [1000 * seconds for seconds in taken] for what, taken in document["seconds"].items()}
    rows = [
        [what, f"{statistics.median(taken):,.0f}", f"{min(taken):,.0f}–{max(taken):,.0f}", str(len(taken))]
        for what, taken in times.items()
    ]
    ratio = statistics.median(times["MLflow's download, each time"]) / statistics.median(times["second load"])
    return "\n".join(
        [
            f"A pair of 2 × {document['bytes'] / 2e6:.0f} MB, {document['store']}. {document['machine']}.",
            "",
            table(["what", "ms, median", "range", "times"], rows),
            "",
            f"Goal for the second load: < {1000 * GOAL:.0f} ms. MLflow's download, which verifies nothing: {ratio:.0f} "
            "times as long.",
        ]
    )


def run(folder: Path, uri: str, rank: int, repeats: int, **size: int) -> dict[str, Any]:
    """The document of one measurement, files made in `folder`."""
    pair = AdapterPair.save(folder / "pair", "benchmark", lora(rank, 1, **size), lora(rank, 2, **size), task="i2v-A14B")
    weights = [path for path in pair.files().values() if path.suffix == ".safetensors"]
    store = "a SQLite file and a folder" if uri.startswith("sqlite") else "an MLflow server on this machine"
    return {
        "bytes": sum(path.stat().st_size for path in weights),
        "store": store,
        "machine": machine(),
        "seconds": measure(pair, uri, folder, repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", help="store (default: a new SQLite file)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=20, help="second loads")
    parser.add_argument("-o", "--output", type=Path, help="the figures as JSON")
    parser.add_argument("--markdown", type=Path, help="file whose table is replaced")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = tracking_uri(args.uri or f"sqlite:///{folder}/mlflow.db")
        document = run(Path(folder), uri, args.rank, args.repeats)
    print(markdown(document))
    if args.output:
        write_json(args.output, document)
    if args.markdown:
        insert(args.markdown, "registry", markdown(document))


if __name__ == "__main__":
    main()
