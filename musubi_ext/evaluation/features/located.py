"""Where a network's weights lie: the user's folder, then the local cache; the network only when it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from musubi_ext.errors import shown
from musubi_ext.evaluation.features.pinned import Pinned
from musubi_ext.evaluation.result import UnavailableError
from musubi_ext.storage import sha256

DIGITS = 12  # of a hash in a result


@dataclass(frozen=True)
class Located:
    """The weights' file (its folder holds the pinned `files`), and the commit when the local cache says which."""

    weights: Path
    commit: str | None = None

    def identity(self, pinned: Pinned) -> str:
        """What a result says was loaded, by the bytes of the file, not by its name."""
        digest = sha256(self.weights)
        commit = f"@{self.commit[:DIGITS]}" if self.commit else ""
        # A hash is published for the last of the names: a conversion to safetensors has another and is not suspect.
        same_file = self.weights.name == pinned.weights[-1]
        other = pinned.sha256 is not None and same_file and digest != pinned.sha256
        return f"{pinned.name}{commit} sha256 {digest[:DIGITS]}" + (", not the pinned weights" if other else "")


def locate(pinned: Pinned, folder: Path | None, offline: bool) -> Located:
    """The weights in `folder` or the local cache; downloaded into that cache when neither has them and not `offline`.

    Raises UnavailableError saying where was searched, for what, and how to get it.
    """
    if folder is not None and (found := _in_folder(pinned, folder)):
        return found
    found = _in_hub_cache(pinned) if pinned.repository else _in_torch_cache(pinned)
    if found:
        return found
    if offline:
        raise UnavailableError(_absent(pinned, folder))
    try:
        return _from_hub(pinned) if pinned.repository else _from_url(pinned)
    except (OSError, RuntimeError) as error:  # the hub's and urllib's errors are OSErrors, a wrong hash is the other
        raise UnavailableError(f"{pinned.name}: the download failed: {error}") from error


def _in_folder(pinned: Pinned, folder: Path) -> Located | None:
    if not pinned.repository:
        return next((Located(folder / name) for name in pinned.weights if (folder / name).is_file()), None)
    owner, name = pinned.repository.split("/")
    for model in (folder / owner / name, folder / name):
        if model.is_dir():
            if missing := [file for file in pinned.files if not (model / file).is_file()]:
                raise UnavailableError(f"{pinned.name}: {shown(model)} lacks {', '.join(missing)} (copy it there)")
            for weights in pinned.weights:
                if (model / weights).is_file():
                    return Located(model / weights)
            raise UnavailableError(f"{pinned.name}: {shown(model)} lacks {' or '.join(pinned.weights)} (copy it there)")
    return None


def _in_hub_cache(pinned: Pinned) -> Located | None:
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> Path | None:
        found = try_to_load_from_cache(pinned.repository, name, revision=pinned.revision)
        return Path(found) if isinstance(found, str) else None

    if not all(cached(name) for name in pinned.files):
        return None
    weights = next(filter(None, map(cached, pinned.weights)), None)
    return Located(weights, weights.parent.name) if weights else None


def _in_torch_cache(pinned: Pinned) -> Located | None:
    path = _torch_cache(pinned)
    return Located(path) if path.is_file() else None


def _torch_cache(pinned: Pinned) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / pinned.weights[-1]


def _from_hub(pinned: Pinned) -> Located:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for name in pinned.files:
        hf_hub_download(pinned.repository, name, revision=pinned.revision)
    for name in pinned.weights:
        try:
            weights = Path(hf_hub_download(pinned.repository, name, revision=pinned.revision))
        except EntryNotFoundError:
            continue
        return Located(weights, weights.parent.name)
    raise OSError(f"the repository has neither {' nor '.join(pinned.weights)}")


def _from_url(pinned: Pinned) -> Located:
    import torch

    path = _torch_cache(pinned)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Writes to a temporary name and renames it only when the hash is right.
    torch.hub.download_url_to_file(pinned.url, str(path), hash_prefix=pinned.sha256, progress=False)
    return Located(path)


def _absent(pinned: Pinned, folder: Path | None) -> str:
    where = "no models folder was given" if folder is None else f"not found in {shown(folder)}"
    if pinned.repository:
        cache, name = "the local hub cache", pinned.repository.partition("/")[2]
        wanted = f"{pinned.repository} at revision {pinned.revision or 'main'}"
        place = f"its {_either(pinned.files)} and {_either(pinned.weights, 'or')} as {name}/ in the models folder"
    else:
        cache, wanted = "torch's checkpoint cache", _either(pinned.weights, "or")
        place = f"{pinned.url} as {pinned.weights[-1]} in the models folder"
    return (
        f"{pinned.name}: {where} nor in {cache} ({wanted}): put {place}, "
        "or allow downloads once (evaluate --download, ModelSource(offline=False))"
    )


def _either(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(names)
