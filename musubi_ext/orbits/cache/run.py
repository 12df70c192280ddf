"""Encode the clips of one process: decoding ahead in threads, windows of one shape together, bad clips left out."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from musubi_ext.errors import UserError
from musubi_ext.orbits.cache.encoders import Encoders
from musubi_ext.orbits.cache.entries import ClipPlan, Window, decode, missing_windows
from musubi_ext.orbits.cache.files import read_metadata, write_latents, write_text
from musubi_ext.orbits.cache.space import DiskFullError, disk_room
from musubi_ext.orbits.decode.pool import DecodePool
from musubi_ext.video import Frames

DECODERS = 2  # processes, killed when they hang; at most two clips more are decoded than are being encoded


@dataclass
class LatentRun:
    """Writes the latents of every plan; `done` is called with each plan whose last window is written or that failed."""

    encoders: Encoders
    done: Callable[[ClipPlan], None]
    waiting: defaultdict[tuple[object, ...], list[Window]] = field(default_factory=lambda: defaultdict(list))

    def run(self, plans: Sequence[ClipPlan]) -> None:
        """Raises UserError when the disk is full. A bad clip has its reason in `problem` and no files."""
        for plan, decoded in _decoded_ahead(plans):
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
        if len(self.waiting[window.shape]) >= self.encoders.batch_size(height, width):
            self._encode(window.shape)

    def _encode(self, shape: tuple[object, ...]) -> None:
        batch = [window for window in self.waiting.pop(shape) if not window.plan.problem]
        if not batch:
            return
        last = batch[0].entry.metadata["condition"] == "first_last"
        latents, images = self.encoders.encode_windows([window.frames for window in batch], last=last)
        for window, latent, image in zip(batch, latents, images, strict=True):
            if window.plan.problem:
                continue
            try:
                with disk_room(window.file.path.parent):
                    metadata = {**window.entry.metadata, "windows": str(window.count)}
                    write_latents(window.file, latent, image, metadata)
            except DiskFullError:
                raise
            except UserError as error:  # numbers that are not finite
                self._fail(window.plan, error)
                continue
            self._written(window)

    def _written(self, window: Window) -> None:
        window.entry.files.add(window.file.path)
        window.plan.pending -= 1
        if not window.plan.pending:
            self.done(window.plan)

    def _fail(self, plan: ClipPlan, error: UserError) -> None:
        plan.problem = str(error)
        self.done(plan)


def _decoded_ahead(plans: Sequence[ClipPlan]) -> Iterator[tuple[ClipPlan, Future[Frames]]]:
    """Every plan with its frames, in order, the next ones being decoded meanwhile."""
    queue: deque[tuple[ClipPlan, Future[Frames]]] = deque()
    with DecodePool(DECODERS) as decoders, _threads() as threads:
        for plan in plans:
            queue.append((plan, threads.submit(decode, plan.dataset, plan.clip, decoders)))
            if len(queue) > DECODERS:
                yield queue.popleft()
        while queue:
            yield queue.popleft()


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for the decoders; what has not begun when the block ends is left."""
    threads = ThreadPoolExecutor(DECODERS, "decode")
    try:
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def write_captions(plan: ClipPlan, encoders: Encoders, text_id: str) -> int:
    """Write the captions' embeddings that are missing; tokens of the longest. Raises DiskFullError."""
    longest = 0
    for entry, path in zip(plan.entries, plan.text_files(), strict=True):
        caption, tokens = entry.variant.caption, encoders.token_count(entry.variant.caption)
        longest = max(longest, tokens)
        if not caption_facts(caption, text_id).items() <= read_metadata(path).items():
            metadata = {"text_encoder": text_id, "tokens": str(tokens)}
            with disk_room(path.parent):
                write_text(path, encoders.encode_caption(caption), caption, metadata)
    return longest


def caption_facts(caption: str, text_id: str) -> dict[str, str]:
    """What the metadata of a finished text cache holds."""
    return {"caption1": caption, "text_encoder": text_id}
