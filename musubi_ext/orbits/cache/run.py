"""Encode the clips of one process: decoding ahead in threads, windows of one shape together, bad clips left out."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from musubi_ext.errors import UserError, shown
from musubi_ext.orbits.cache.decoding import DECODERS, decode, decoders
from musubi_ext.orbits.cache.encoders import LARGEST, Encoders
from musubi_ext.orbits.cache.entries import ClipPlan, Window, missing_windows
from musubi_ext.orbits.cache.files import read_metadata, write_latents, write_text
from musubi_ext.orbits.cache.space import CannotWriteError, writing
from musubi_ext.video import Frames

WAITING = 1 << 30  # bytes of frames that wait for others of their shape: clips of many lengths share few


@dataclass
class LatentRun:
    """Writes the latents of every plan; `done` is called with each plan whose last window is written or that failed."""

    encoders: Encoders
    done: Callable[[ClipPlan], None]
    waiting: defaultdict[tuple[object, ...], list[Window]] = field(default_factory=lambda: defaultdict(list))
    most: int = LARGEST  # windows of a batch: fewer once one has not fitted the device's memory
    room: int = WAITING

    def run(self, plans: Sequence[ClipPlan]) -> None:
        """Raises UserError when nothing can be written. A bad clip has its reason in `problem` and no new files."""
        with closing(_decoded_ahead(plans)) as ahead:
            for plan, decoded in ahead:
                try:
                    windows = list(missing_windows(plan, decoded.result()))
                except UserError as error:
                    self._fail(plan, error)
                    continue
                for window in windows:
                    self._add(window)
        for shape in list(self.waiting):
            self._encode(shape)

    def _add(self, window: Window) -> None:
        self.waiting[window.shape].append(window)
        height, width = window.frames.shape[1:3]
        if len(self.waiting[window.shape]) >= min(self.most, self.encoders.batch_size(height, width)):
            self._encode(window.shape)
        while sum(one.frames.nbytes for group in self.waiting.values() for one in group) > self.room:
            self._encode(max(self.waiting, key=lambda shape: sum(one.frames.nbytes for one in self.waiting[shape])))

    def _encode(self, shape: tuple[object, ...]) -> None:
        batch = [window for window in self.waiting.pop(shape) if not window.plan.problem]
        for window, latent, image in self._encoded(batch):
            if window.plan.problem:
                continue
            try:
                with writing(window.file.path.parent):
                    metadata = {**window.entry.metadata, "windows": str(window.count)}
                    write_latents(window.file, latent, image, metadata)
            except CannotWriteError:
                raise
            except UserError as error:  # numbers that are not finite
                self._fail(window.plan, error)
                continue
            self._written(window)

    def _encoded(self, batch: Sequence[Window]) -> Iterator[tuple[Window, Tensor, Tensor]]:
        """Every window with its latents and conditioning; halved until it fits the device's memory."""
        if not batch:
            return
        last = batch[0].entry.metadata["condition"] == "first_last"
        try:
            latents, images = self.encoders.encode_windows([window.frames for window in batch], last=last)
        except torch.OutOfMemoryError:
            half = len(batch) // 2  # tried again below, once the error no longer holds what filled the memory
        else:
            yield from zip(batch, latents, images, strict=True)
            return
        if half:
            self.most = min(self.most, half)
            yield from self._encoded(batch[:half])
            yield from self._encoded(batch[half:])
        elif not batch[0].plan.problem:
            (window,) = batch
            frames, height, width = window.frames.shape[:3]
            needs = f"{frames} frames at {width}x{height} do not fit the memory of {self.encoders.vae.device}"
            fix = "lower the resolution or target_frames, or give --vae_dtype bf16 or --cpu"
            self._fail(window.plan, UserError(f"{shown(window.plan.clip.path)}: {needs} ({fix})"))

    def _written(self, window: Window) -> None:
        window.entry.files.add(window.file.path)
        window.plan.written.append(window.file.path)
        window.plan.pending -= 1
        if not window.plan.pending:
            self.done(window.plan)

    def _fail(self, plan: ClipPlan, error: UserError) -> None:
        plan.problem = str(error)
        for path in plan.written:  # half a clip is not trained on
            path.unlink(missing_ok=True)
        self.done(plan)


def _decoded_ahead(plans: Sequence[ClipPlan]) -> Generator[tuple[ClipPlan, Future[Frames]], None, None]:
    """Every plan with its frames, in order; at most two clips more are decoded than are being encoded."""
    queue: deque[tuple[ClipPlan, Future[Frames]]] = deque()
    with decoders() as (pool, threads):
        for plan in plans:
            queue.append((plan, threads.submit(decode, plan.dataset, plan.clip, pool)))
            if len(queue) > DECODERS:
                yield queue.popleft()
        while queue:
            yield queue.popleft()


def write_captions(plan: ClipPlan, encoders: Encoders, text_id: str) -> int:
    """Write the captions' embeddings that are missing; tokens of the longest. Raises UserError."""
    longest = 0
    for entry, path in zip(plan.entries, plan.text_files(), strict=True):
        caption, tokens = entry.variant.caption, encoders.token_count(entry.variant.caption)
        longest = max(longest, tokens)
        if not caption_facts(caption, text_id).items() <= read_metadata(path).items():
            metadata = {"text_encoder": text_id, "tokens": str(tokens), **encoders.tokenizer_metadata}
            embedding = encoders.encode_caption(caption)
            with writing(path.parent):
                write_text(path, embedding, caption, metadata)
    return longest


def caption_facts(caption: str, text_id: str) -> dict[str, str]:
    """What the metadata of a finished text cache holds."""
    return {"caption1": caption, "text_encoder": text_id}
