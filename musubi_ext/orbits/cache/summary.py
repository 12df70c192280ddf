"""What one caching run did, in numbers and names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from musubi_ext.errors import shown


@dataclass
class CacheSummary:
    """What one caching run did. `bad` pairs a clip with the reason it was left out."""

    written: int = 0  # clips decoded and encoded in this run (a mirrored one counts with its original)
    skipped: int = 0  # clips whose latents were finished
    removed: int = 0  # stale files of clips or settings that are gone
    seconds: float = 0.0
    bad: list[tuple[Path, str]] = field(default_factory=list)
    truncated: list[tuple[Path, int]] = field(default_factory=list)  # captions longer than the encoder reads, in tokens
    stopped: list[str] = field(default_factory=list)  # why the run ended early: a full disk

    def report(self) -> str:
        """A few lines for the terminal."""
        counts = f"{self.written} encoded, {self.skipped} were ready, {len(self.bad)} left out"
        lines = [f"caches: {counts}, {self.removed} stale removed, {self.seconds:.1f} s"]
        lines += [f"  left out: {reason}" for _, reason in self.bad]
        lines += [
            f"  caption cut: {shown(path)}: its {count} tokens are more than are read" for path, count in self.truncated
        ]
        return "\n".join(lines)

    def add(self, other: CacheSummary) -> None:
        """Count another process's share in."""
        self.written, self.skipped = self.written + other.written, self.skipped + other.skipped
        self.bad, self.truncated = self.bad + other.bad, self.truncated + other.truncated
        self.stopped = self.stopped + other.stopped
