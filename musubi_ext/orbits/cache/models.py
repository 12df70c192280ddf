"""Which models a cache is made with, known by their ids before (and often without) loading them."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import torch

from musubi_ext.errors import Problems
from musubi_ext.orbits.cache.encoders import Encoders, check_folder
from musubi_ext.orbits.cache.index import CacheIndex, stamp_of

PARTS = ("vae", "text_encoder", "tokenizer")
DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp32": torch.float32, "float32": torch.float32}


@dataclass(frozen=True)
class ModelIds:
    """SHA-256 of the VAE's encoder and of the text encoder with its tokenizer."""

    vae: str
    text: str
    text_tokens: int  # that the text encoder reads


def ids_of(encoders: Encoders) -> ModelIds:
    """Of loaded encoders."""
    return ModelIds(encoders.vae_id, encoders.text_id, encoders.text_tokens)


@dataclass(frozen=True)
class ModelFiles:
    """A diffusers Wan folder, or upstream's VAE and UMT5 files with a tokenizer's folder."""

    base: Path | None = None
    vae: Path | None = None
    t5: Path | None = None
    tokenizer: Path | None = None
    device: str = "cpu"
    vae_dtype: torch.dtype = torch.float32

    @cached_property
    def encoders(self) -> Encoders:
        """Loaded at first use. Raises UserError naming each missing part."""
        if self.base is not None:
            return Encoders.load(self.base, device=self.device, dtype=self.vae_dtype)
        from musubi_ext.orbits.cache.wan_text import find_tokenizer, load_text_encoder, load_tokenizer
        from musubi_ext.orbits.cache.wan_vae import load_vae

        problems = Problems()
        vae = problems.collect(lambda: load_vae(self.vae or Path(), device=self.device, dtype=self.vae_dtype))
        text = problems.collect(lambda: load_text_encoder(self.t5 or Path()))
        files = problems.collect(lambda: find_tokenizer(self.tokenizer))
        tokenizer = problems.collect(lambda: load_tokenizer(files)) if files else None
        problems.raise_if_any()
        return Encoders(vae, text, tokenizer, files.metadata if files else {})

    def check(self) -> None:
        """Raises UserError naming every part that is missing, or another model, as far as it shows without loading."""
        if self.base is not None:
            check_folder(self.base)
            return
        from musubi_ext.orbits.cache.wan_text import find_tokenizer

        problems = Problems()
        for path in (self.vae, self.t5):
            if path is not None and not path.is_file():
                problems.add(path, "expected a weight file, found nothing", "check the path")
        problems.collect(lambda: find_tokenizer(self.tokenizer))
        problems.raise_if_any()

    def ids(self, index: CacheIndex) -> ModelIds:
        """From the index while the files are unchanged, else by loading them, which is recorded."""
        known = index.get("model", self._fingerprint, (0, 0))
        if known is None:
            known = list(astuple(ids_of(self.encoders)))
            index.put("model", self._fingerprint, (0, 0), known)
        return ModelIds(*known)

    @cached_property
    def _fingerprint(self) -> str:
        """SHA-256 of every weight file's path, size and modification time, and of the precision."""
        if self.base is not None:
            files = sorted(path for part in PARTS for path in (self.base / part).glob("*"))
        else:
            files = [path for path in (self.vae, self.t5) if path] + self._tokenizer_files()
        facts = [(str(path.resolve()), stamp_of(path)) for path in files]
        return hashlib.sha256(repr((facts, str(self.vae_dtype))).encode()).hexdigest()

    def _tokenizer_files(self) -> list[Path]:
        from musubi_ext.orbits.cache.wan_text import find_tokenizer

        found = Problems().collect(lambda: find_tokenizer(self.tokenizer))  # loading says what is wrong with it
        return sorted(found.folder.glob("*")) if found else []
