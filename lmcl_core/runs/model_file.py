"""A trained model as one safetensors file: its weights, and the metadata that scoring needs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ..common.errors import InputError
from ..common.files import atomic_write, digest
from ..common.paths import resolve_path
from ..data.catalogue import BENCHMARKS
from . import schema

if TYPE_CHECKING:  # `find_model` needs neither torch nor pandas
    import pandas as pd
    from torch import Tensor, nn

    from ..data.splits import Split

BUNDLED_FOLDER = Path(__file__).parents[1] / "scoring" / "bundled"

#: Paths of the weights that come with the package, by name; model cards beside them describe their training.
BUNDLED = {path.stem: path for path in sorted(BUNDLED_FOLDER.glob("*.safetensors"))}

_METADATA = [name for name in schema.MODEL if name not in ("title", "axis", "label_kind")]


def save_model(
    path: Path,
    model: nn.Module,
    recipe: dict[str, Any],
    table: pd.DataFrame,
    split: Split,
    *,
    mos_mean: float,
    mos_std: float,
    largest_short_side: int,
    backbone_weights: str | None = None,
) -> None:
    """Write a model and its metadata as one safetensors file. RunError: it cannot be saved.

    Args:
        recipe: fields of its `Recipe`.
        table, split: the benchmark; MOS of the training part give `mos_mean`, `mos_std` and the percentiles.
        largest_short_side: the largest short side, in pixels, of the images that the model was trained and tested on.
            Larger images are shrunk to it before they are scored, because the model has not seen any so large.
        backbone_weights: `weights_digest` of the weights that training started from, or None.
    """
    from ..data.benchmarks import benchmark

    about = benchmark(table)
    metadata = dict(
        recipe=recipe,
        benchmark=about.name,
        title=about.title,
        axis=about.axis,
        label_kind=about.label_kind,
        mos_range=list(table.attrs["mos_range"]),
        mos_mean=mos_mean,
        mos_std=mos_std,
        mos_percentiles=np.percentile(table["mos"].to_numpy()[split.train], np.arange(101)).round(6).tolist(),
        largest_short_side=largest_short_side,
        backbone_weights=backbone_weights,
        packed=False,
    )
    _write(path, {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, metadata)


def pack(weights: str | Path, path: str | Path) -> None:
    """Write a copy of a model (`weights` as in `lmcl_core.load`) for scoring only: float16, no embedding head."""
    import torch

    _, state, metadata = read_model(weights)
    kept = {key: value for key, value in state.items() if not key.startswith("embedding_head.")}
    half = {key: value.half() if value.dtype == torch.float32 else value for key, value in kept.items()}
    _write(Path(path), half, {**metadata, "packed": True})


def find_model(weights: str | Path) -> Path:
    """Path of a model file; `weights` as in `lmcl_core.load`. InputError: it does not exist or may not be read."""
    if not str(weights).strip():
        raise InputError("weights is empty: name a model.safetensors, a run folder or bundled weights")
    path = BUNDLED.get(str(weights)) or resolve_path(weights)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        fix = f"name a model.safetensors of a finished run, its folder, or bundled weights ({', '.join(BUNDLED)})"
        raise InputError(f"no weights at {path}: {fix}")
    if not os.access(path, os.R_OK):
        raise InputError(f"weights at {path} are not readable: give yourself permission to read them")
    return path


def read_model(weights: str | Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Path, state dict (floating-point tensors as float32) and metadata of a file of `save_model` or `pack`.

    Title, axis and label_kind of the training benchmark, which earlier versions did not write, come from the catalogue.
    `weights` is as in `lmcl_core.load`. InputError: there is no such file, or it is damaged or of another program; or
    its values are not finite.
    """
    from .folder import read_run

    path, fix = find_model(weights), "train or fetch them again"
    recorded = (read_run(path.parent) or {}).get("files", {}).get(path.name)
    if recorded and digest(path) != recorded:
        raise InputError(f"weights at {path} are damaged (their SHA-256 is not that in run.json): {fix}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("lmcl", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"weights at {path} are damaged or no safetensors file ({error}): {fix}") from error
    if metadata is None:
        raise InputError(f"{path} was not written by lmcl_core (no recipe in it): name the model.safetensors of a run")
    schema.check(metadata, schema.MODEL, f"metadata of the weights at {path}", fix, _METADATA)
    if bad := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise InputError(f"weights at {path} are damaged ({bad[0]} is not finite): {fix}")
    if (known := BENCHMARKS.get(metadata["benchmark"])) is not None:
        metadata = dict(title=known.title, axis=known.axis, label_kind=known.label_kind) | metadata
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return path, state, metadata


def _write(path: Path, state: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    from safetensors.torch import save

    with atomic_write(path) as temporary:  # save_file would report a full disk without its errno
        temporary.write_bytes(save(state, metadata={"lmcl": json.dumps(metadata)}))
