"""Local manifold contrastive learning for no-reference image quality assessment.

Names are imported when they are first used, so that ``import lmcl_core`` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "benchmarks": ("BENCHMARKS", "Benchmark", "Fault", "load_benchmark"),
    "splits": ("Split", "data_hash", "make_split", "shared_contents", "split_hash"),
    "verify": ("verify_benchmark",),
    "crops": ("CropSampler", "crop_saliency", "salient_crop"),
    "losses": ("LocalManifoldContrastiveLoss", "mutual_loss", "quality_loss"),
    "model": ("QualityModel", "make_teacher", "update_teacher"),
    "recipe": ("Recipe",),
    "training": ("train",),
    "evaluation": ("metrics", "bootstrap_interval"),
    "scoring": ("Scorer", "load"),
    "errors": ("InputError", "RunError"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lmcl_core' has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
