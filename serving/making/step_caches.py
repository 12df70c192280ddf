"""Steps left out because their outcome is known well enough: FirstBlockCache, TaylorSeer, MagCache, one per expert.

Each keeps state from step to step. A state that outlives its video changes the next one, without an error: it is
cleared before and after each expert's run, also when that ends by an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serving.making.levers import EXPERTS, Levers

# Without these names TaylorSeer finds nothing in a Wan transformer, and says nothing.
_TAYLORSEER_MODULES = [r"blocks\.\d+\.attn\d", r"blocks\.\d+\.ffn"]


@contextmanager
def step_cache(pipeline: Any, component: str, steps: int, levers: Levers) -> Iterator[None]:
    """The lever's cache in one expert, for a run of so many steps; nothing of it is left afterwards."""
    expert = getattr(pipeline, component)
    if levers.step_cache != "none":
        expert.enable_cache(_config(levers, EXPERTS.index(component), steps))
    try:
        yield
    finally:
        if levers.step_cache != "none":
            expert.disable_cache()  # the hooks, and their state with them


def _config(levers: Levers, index: int, steps: int) -> Any:
    from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

    if levers.step_cache == "first_block":
        return FirstBlockCacheConfig(threshold=levers.first_block_threshold[index])
    if levers.step_cache == "taylorseer":
        return TaylorSeerCacheConfig(
            cache_interval=levers.taylorseer_interval[index],
            disable_cache_before_step=levers.taylorseer_warmup[index],
            cache_identifiers=_TAYLORSEER_MODULES,
        )
    return MagCacheConfig(
        threshold=levers.magcache_threshold[index],
        num_inference_steps=steps,  # the ratios are spread over this expert's own steps
        mag_ratios=list((levers.magcache_ratios_high, levers.magcache_ratios_low)[index]),
    )
