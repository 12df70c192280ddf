"""Every metric of the package, registered by importing its file; `METRICS` lists them by name."""

from importlib import import_module
from pkgutil import iter_modules

from musubi_ext.evaluation.metrics.registry import METRICS, Better, Metric

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METRICS", "Better", "Metric"]
