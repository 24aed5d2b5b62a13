"""Local manifold contrastive learning for no-reference image quality assessment.

Public names are imported on first use, so that ``import lmcl_core`` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "data.benchmarks": ("BENCHMARKS", "Benchmark", "Fault", "benchmark", "choose_benchmarks", "load_benchmark"),
    "data.verify": ("verify_benchmark",),
    "data.splits": ("Split", "make_split", "numbered_splits", "shared_contents"),
    "data.identity": ("data_hash", "rows_of", "split_hash"),
    "data.store": ("ImageStore",),
    "crops": ("CropSampler", "crop_saliency", "salient_crop"),
    "losses": ("LocalManifoldContrastiveLoss", "mutual_loss", "quality_loss"),
    "model": ("QualityModel", "make_teacher", "update_teacher"),
    "recipe": ("Recipe", "VARIANTS"),
    "training": ("train",),
    "inference": ("Scorer", "load"),
    "evaluation": ("metrics", "bootstrap_interval"),
    "runs.folder": ("run_folder",),
    "batch.parameters": ("check_parameters",),
    "common.paths": ("figures_folder", "runs_folder"),
    "common.errors": ("InputError", "RunError"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lmcl_core' has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
