"""A trained model as one safetensors file: weights, and all that is needed to use them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import InputError
from .paths import whole_path
from .recipe import Recipe
from .splits import Split
from .files import replacing

BUNDLED_FOLDER = Path(__file__).parent / "bundled"

#: Weights that come with the package, by name: trained as their model cards beside them say.
BUNDLED = {path.stem: path for path in sorted(BUNDLED_FOLDER.glob("*.safetensors"))}


_NEEDED = {"recipe", "benchmark", "mos_range", "mos_mean", "mos_std", "mos_percentiles", "largest_short_side", "packed"}


def save_model(
    path: Path,
    model: nn.Module,
    recipe: Recipe,
    table: pd.DataFrame,
    split: Split,
    *,
    mos_mean: float,
    mos_std: float,
    largest_short_side: int,
) -> None:
    """Write weights and what is needed to use them as one safetensors file.

    Args:
        path: the file.
        model: a `QualityModel`.
        recipe: how it was trained.
        table: the training benchmark.
        split: its training part gives the percentiles.
        mos_mean: mean MOS of the training part.
        mos_std: standard deviation of the same.
        largest_short_side: of the benchmark's pictures as the model sees them, in pixels; larger pictures are brought
            to it before they are scored, since nobody's opinion of larger ones was learnt.

    Raises:
        RunError: it cannot be saved.
    """
    about = dict(
        recipe=recipe.to_dict(),
        benchmark=table.attrs["benchmark"],
        mos_range=list(table.attrs["mos_range"]),
        mos_mean=mos_mean,
        mos_std=mos_std,
        mos_percentiles=percentiles(table["mos"].to_numpy()[split.train]),
        largest_short_side=largest_short_side,
        packed=False,
    )
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    _write(path, state, about)


def percentiles(mos: np.ndarray) -> list[float]:
    """The 0th to the 100th percentile of opinion scores, as a model file holds them of what it was trained on."""
    return np.percentile(mos, np.arange(101)).round(6).tolist()


def pack(weights: str | Path, path: str | Path) -> None:
    """Write a model in half the size and less, for scoring alone: float16, without the embedding head.

    Args:
        weights: as in `lmcl_core.load`.
        path: the file.

    Raises:
        InputError: no such weights.
        RunError: it cannot be saved.
    """
    _, state, about = read_model(weights)
    kept = {key: value for key, value in state.items() if not key.startswith("embedding_head.")}
    half = {key: value.half() if value.dtype == torch.float32 else value for key, value in kept.items()}
    _write(Path(path), half, {**about, "packed": True})


def read_model(weights: str | Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_model` or `pack`.

    Args:
        weights: as in `lmcl_core.load`.

    Returns:
        Its path, its tensors (floating point ones as float32), and what is known of the model.

    Raises:
        InputError: no such file, or one that this package did not write.
    """
    path = BUNDLED.get(str(weights)) or whole_path(weights)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise InputError(
            f"no weights at {path}: name a model.safetensors of a finished run, its folder, "
            f"or bundled weights ({', '.join(BUNDLED) or 'there are none'})"
        )
    if not os.access(path, os.R_OK):
        raise InputError(f"weights at {path} may not be read: give yourself permission to read them")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("lmcl", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise InputError(f"weights at {path} are damaged ({error}): train or fetch them again") from error
    if about is not None and not isinstance(about, dict):
        raise InputError(f"weights at {path} are damaged (what is known of them is no record): fetch them again")
    if about is None:
        raise InputError(f"{path} was not written by lmcl_core: it lacks the recipe; name a run's model.safetensors")
    missing = _NEEDED - set(about)
    if missing:
        raise InputError(f"weights at {path} lack {', '.join(sorted(missing))}: train or fetch them again")
    return path, {key: value.float() if value.is_floating_point() else value for key, value in state.items()}, about


def _write(path: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        try:
            save_file(state, temporary, metadata={"lmcl": json.dumps(about)})
        except SafetensorError as error:  # the writer is not Python's, so a full disk comes without its errno
            raise OSError(28, str(error)) from error
