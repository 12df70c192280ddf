"""The one pair in a pipeline's experts: exchanged between jobs, and only when the new one is in."""

from __future__ import annotations

import time
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer

from musubi_ext.adapters.attach import detach
from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.adapters.updates import updates
from musubi_ext.schedule.experts import Expert


class PairSlot:
    """Puts pairs into `pipeline`, one at a time. Not for several threads."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._pair: AdapterPair | None = None
        self._name = ""
        self._strengths = (1.0, 1.0)
        self.swap_seconds = 0.0  # of the last exchange

    def use(self, pair: AdapterPair | None, strength_high: float = 1.0, strength_low: float = 1.0) -> None:
        """Make `pair` the one in use (None: the base alone), at these strengths.

        Everything about the new pair is checked before the old one gives way. Raises UserError, with the old one still
        in use, if the new one does not fit.
        """
        if pair is not self._pair:
            started = time.perf_counter()
            self._exchange(pair)
            self.swap_seconds = time.perf_counter() - started
        if pair is not None and self._strengths != (strength_high, strength_low):
            self._scale(Expert.HIGH, strength_high)
            self._scale(Expert.LOW, strength_low)
            self._strengths = (strength_high, strength_low)

    @property
    def pair(self) -> AdapterPair | None:
        """The pair in use."""
        return self._pair

    def _exchange(self, pair: AdapterPair | None) -> None:
        old, new = self._name, "pair-b" if self._name == "pair-a" else "pair-a"
        if pair is not None and self._refill(pair):
            self._pair, self._strengths = pair, (1.0, 1.0)
            return
        if pair is not None:
            pair.apply(self._pipeline, adapter_name=new)
            for expert in Expert:
                _keep_precision(getattr(self._pipeline, expert.component), pair, expert, new)
        if self._pair is not None:
            detach(self._pipeline, old)
        self._pair, self._strengths = pair, (1.0, 1.0)
        self._name = new if pair is not None else ""

    def _refill(self, pair: AdapterPair) -> bool:
        """Put another pair's numbers into the layers of the one in use, where both have the same ones; else False.

        Ten times faster than new layers, and nothing has to be compiled again.
        """
        if self._pair is None or pair.manifest["transformer"] != self._pair.manifest["transformer"]:
            return False
        found = {expert: updates(pair.state_dict(expert)) for expert in Expert}
        layers = {expert: self._layers(expert) for expert in Expert}
        for expert in Expert:
            shapes = {
                module.diffusers: (update.down.shape, update.up.shape) for module, update in found[expert].items()
            }
            held = {path: tuple(part.weight.shape for part in self._parts(of)) for path, of in layers[expert].items()}
            if shapes != held or not any(update.has_effect() for update in found[expert].values()):
                return False
        for expert in Expert:
            for module, update in found[expert].items():
                layer = layers[expert][module.diffusers]
                for part, matrix in zip(self._parts(layer), (update.down, update.up), strict=True):
                    part.weight.data.copy_(matrix)
                layer.lora_alpha[self._name] = update.alpha
                layer.set_scale(self._name, 1.0)
        return True

    def _layers(self, expert: Expert) -> dict[str, BaseTunerLayer]:
        """The layers that hold the pair in use, by their path."""
        modules = getattr(self._pipeline, expert.component).named_modules()
        return {path: of for path, of in modules if isinstance(of, BaseTunerLayer) and self._name in of.lora_A}

    def _parts(self, layer: Any) -> tuple[Any, Any]:
        return layer.lora_A[self._name], layer.lora_B[self._name]

    def _scale(self, expert: Expert, strength: float) -> None:
        """Of this pair alone: `set_adapters` of diffusers would switch off a distillation beside it."""
        for layer in self._layers(expert).values():
            layer.set_scale(self._name, strength)


def _keep_precision(model: Any, pair: AdapterPair, expert: Expert, name: str) -> None:
    """Beside weights that are kept in 8 bits (layerwise casting) peft casts a LoRA to 8 bits as well: undo that.

    8 bits would round it, and it could not compute: the LoRA's own layers are not cast back and forth.
    """
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    dtype = model.dtype
    if all(layer.lora_A[name].weight.dtype == dtype for layer in layers.values() if name in layer.lora_A):
        return
    for module, update in updates(pair.state_dict(expert)).items():
        layer = layers[module.diffusers]
        for part, matrix in ((layer.lora_A[name], update.down), (layer.lora_B[name], update.up)):
            part.weight.data = matrix.to(part.weight.device, dtype)
