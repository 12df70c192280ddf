"""The corpus as the experts see it: standardised latents, image conditions and text states, computed once."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from musubi_ext.orbits.conditioning import condition_mask, condition_video
from musubi_ext.pocket.corpus import Corpus
from musubi_ext.pocket.train_text import encode
from musubi_ext.pocket.train_vae import to_input
from musubi_ext.storage import atomic_path

LAST_EVERY = 3  # one clip in three also has a first + last frame condition


@dataclass(frozen=True)
class Batch:
    """`latents` (B, 16, f, h, w), `condition` (B, 20, f, h, w): mask and image latents, `text` (B, 24, 64)."""

    latents: Tensor
    condition: Tensor
    text: Tensor


class LatentCorpus:
    """Latents (N, 16, f, h, w) float16 of every clip, with both kinds of condition."""

    def __init__(self, arrays: dict[str, Any], text: Tensor, clip_frames: int) -> None:
        self.latents, self.first, self.both = (torch.from_numpy(arrays[key]) for key in ("latents", "first", "both"))
        self.text = text
        hw = (self.latents.shape[-2], self.latents.shape[-1])
        self.masks = [condition_mask(clip_frames, hw, last) for last in (False, True)]

    def sample(self, rng: np.random.Generator, size: int, drop_text: Tensor, drop: float = 0.03) -> Batch:
        """A random batch; half of the clips that have a last-frame condition use it, 3% lose their caption."""
        index = rng.integers(len(self.latents), size=size)
        conditions, texts = [], []
        for i in index:
            last = i % LAST_EVERY == 0 and rng.random() < 0.5
            image = self.both[i // LAST_EVERY] if last else self.first[i]
            conditions.append(torch.cat([self.masks[int(last)], image.float()]))
            texts.append(drop_text if rng.random() < drop else self.text[i])
        return Batch(self.latents[torch.from_numpy(index)].float(), torch.stack(conditions), torch.stack(texts))


def encode_corpus(
    corpus: Corpus, vae_folder: Path, encoder: nn.Module, tokenizer: Any, folder: Path, workers: int
) -> LatentCorpus:
    """Encode every clip with the VAE in `vae_folder`, on `workers` processes; kept in `folder` and not done twice."""
    done = folder / "latents.npz"
    if not done.exists():
        chunks = [
            (folder / "corpus.npy", vae_folder, start, min(start + 64, len(corpus.frames)))
            for start in range(0, len(corpus.frames), 64)
        ]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            parts = list(track(pool.map(_encode_chunk, chunks), "encode the corpus", len(chunks)))
        arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        with atomic_path(done) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)
    with torch.no_grad():
        text, _ = encode(encoder, tokenizer, corpus.captions)
    with np.load(done) as arrays:
        return LatentCorpus(dict(arrays), text, corpus.frames.shape[1])


@torch.no_grad()
def _encode_chunk(job: tuple[Path, Path, int, int]) -> dict[str, Any]:
    from diffusers import AutoencoderKLWan

    array, vae_folder, start, end = job
    torch.set_num_threads(1)
    vae = AutoencoderKLWan.from_pretrained(vae_folder)
    shape = (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(v).view(shape) for v in (vae.config.latents_mean, vae.config.latents_std))

    def latents(x: Tensor) -> Any:
        z = torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(x, 8)])
        return ((z - mean) / std).half().numpy()

    x = to_input(np.load(array, mmap_mode="r")[start:end])
    every = [i - start for i in range(start, end) if i % LAST_EVERY == 0]
    return {
        "latents": latents(x),
        "first": latents(torch.stack([condition_video(clip, last=False) for clip in x])),
        "both": latents(torch.stack([condition_video(x[i], last=True) for i in every])),
    }
