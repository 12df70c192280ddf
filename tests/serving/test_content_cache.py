"""What the encode cache keeps: the same bits, never more than its bytes, the least recently used dropped first."""

from __future__ import annotations

import torch
from torch import Tensor

from serving.making.content_cache import ContentCache, content_key


def made(count: int) -> dict[str, Tensor]:
    """100 bytes of one value."""
    return {"t": torch.full((25,), float(count))}


def test_limit_is_kept_and_the_least_recently_used_goes_first() -> None:
    cache = ContentCache(300)
    for name in "abc":
        cache.get(name, lambda name=name: made(ord(name)))
    cache.get("a", lambda: made(0))
    cache.get("d", lambda: made(4))
    assert (len(cache), cache.bytes) == (3, 300)
    assert cache.get("a", lambda: made(0))["t"][0] == ord("a")
    assert cache.get("b", lambda: made(0))["t"][0] == 0  # it was dropped


def test_what_is_larger_than_all_is_passed_on_and_not_kept() -> None:
    cache = ContentCache(99)
    assert cache.get("a", lambda: made(1))["t"].sum() == 25
    assert (len(cache), cache.bytes, cache.misses) == (0, 0, 1)


def test_view_keeps_its_own_bytes_alone_and_types_stay() -> None:
    whole = torch.arange(1000, dtype=torch.bfloat16)
    cache = ContentCache(1000)
    kept = cache.get("a", lambda: {"t": whole[:10]})["t"]
    whole.zero_()
    assert kept.dtype == torch.bfloat16
    assert kept.tolist() == list(range(10))
    assert (kept.untyped_storage().nbytes(), cache.bytes) == (20, 20)


def test_keys_tell_contents_apart() -> None:
    keys = [content_key("a", 1), content_key("a", "1"), content_key("a1"), content_key(["a"], 1), content_key("a", 1.5)]
    assert len(set(keys)) == len(keys)
    assert content_key({"b": 1, "a": 2}) == content_key({"a": 2, "b": 1})
