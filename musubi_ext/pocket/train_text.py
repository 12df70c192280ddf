"""Pre-train the text encoder until every token knows the camera's direction and the mean knows what is seen.

A random frozen encoder leaves "right to left" and "left to right" at a cosine above 0.95, and the experts never learn
to tell them apart. Six seconds of this make the difference; then the encoder is frozen (docs/LOG.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import nn

from musubi_ext.orbits.captions import CIRCLES, COLOURS, KINDS, PANS, SHOTS, STILL, VIEWPOINTS, orbit_caption
from musubi_ext.orbits.scenes import GROUND_TONES
from musubi_ext.pocket.config import TEXT_DIM, TEXT_TOKENS

_CAMERAS = (CIRCLES[+1], CIRCLES[-1], PANS[+1], PANS[-1], STILL)


def train_text_encoder(encoder: nn.Module, tokenizer: Any, steps: int, seed: int = 0) -> dict[str, float]:
    """Train in place; returns the accuracies of the last batches and the left/right cosine of the mean token."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tables = (_CAMERAS, COLOURS, KINDS, tuple(GROUND_TONES))
    heads = nn.ModuleList(nn.Linear(TEXT_DIM, len(table)) for table in tables)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=3e-3)
    right = np.zeros(len(tables))
    for step in track(range(steps), "train the text encoder"):
        labels = torch.tensor(np.stack([rng.integers(len(table), size=64) for table in tables]))
        captions = [
            orbit_caption(
                str(rng.choice(VIEWPOINTS)), str(rng.choice(SHOTS)), *(t[i] for t, i in zip(tables, row, strict=True))
            )
            for row in labels.T.tolist()
        ]
        tokens, mask = encode(encoder, tokenizer, captions)
        mean = (tokens * mask).sum(1) / mask.sum(1)
        every = nn.functional.cross_entropy(
            heads[0](tokens).transpose(1, 2), labels[0, :, None].expand(-1, TEXT_TOKENS), reduction="none"
        )
        logits = [heads[0](mean)] + [head(mean) for head in list(heads)[1:]]
        spread = 1e-3 * (tokens * mask).pow(2).mean()
        loss = (every * mask[..., 0]).sum() / mask.sum() + spread
        loss = loss + sum(nn.functional.cross_entropy(x, y) for x, y in zip(logits[1:], labels[1:], strict=True))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step >= steps - 10:
            right += [float((x.argmax(1) == y).float().mean()) / 10 for x, y in zip(logits, labels, strict=True)]
    encoder.requires_grad_(False)
    report = dict(zip(("camera", "colour", "kind", "ground"), right.tolist(), strict=True))
    return {**report, "left_right_cosine": left_right_cosine(encoder, tokenizer)}


@torch.no_grad()
def left_right_cosine(encoder: nn.Module, tokenizer: Any) -> float:
    """Cosine of the mean tokens of two captions that differ in the direction alone."""
    pair = [orbit_caption("eye level", "full shot", CIRCLES[d], "red", "car", "grass") for d in (+1, -1)]
    tokens, mask = encode(encoder, tokenizer, pair)
    mean = (tokens * mask).sum(1) / mask.sum(1)
    return float(nn.functional.cosine_similarity(mean[0], mean[1], dim=0))


def encode(encoder: nn.Module, tokenizer: Any, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token states (B, L, 64), zero after each text's end as the Wan pipeline pads them, and the mask (B, L, 1)."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=TEXT_TOKENS, return_tensors="pt")
    states = encoder(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    mask = batch.attention_mask[..., None].to(states.dtype)
    return states * mask, mask
