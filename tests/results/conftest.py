"""A benchmark of thirty images, and finished runs on its splits, without any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from layouts import write_own, write_results

from lmcl_core import QualityModel, Recipe, make_split, metrics
from lmcl_core.runs.folder import run_folder, write_run
from lmcl_core.runs.model_file import save_model


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Thirty images of as many contents, in one folder; the files hold no pixels."""
    images, mos = [f"{number:02d}.png" for number in range(30)], np.random.default_rng(0).uniform(0, 100, 30)
    for image in images:
        (tmp_path / image).write_bytes(b"")
    table = pd.DataFrame(dict(image=images, mos=mos, content=images, distortion=["blur", "noise", pd.NA] * 10))
    table.attrs = dict(benchmark="livec", root=str(tmp_path))
    return table


@pytest.fixture
def put_run() -> Callable[..., list[float]]:
    """A function that writes the folder of a finished run and returns its predictions in the order of the test part."""

    def write(where: Path, table: pd.DataFrame, index: int, name: str = "lmcl", plcc: float = 0.8, **changes):
        benchmark, split = table.attrs["benchmark"], make_split(table, index)
        test = table.iloc[split.test]
        pred = correlated(test["mos"], plcc)
        recipe = Recipe.for_benchmark(benchmark, name, **changes)
        folder = run_folder(where, benchmark, recipe.name, index)
        # The rows of the file are in reverse order, because no reader may rely on their order.
        write_results(folder, pd.DataFrame(dict(image=test["image"], mos=test["mos"], pred=pred))[::-1])
        scores = metrics(pred=pred, mos=test["mos"])
        best = dict(plcc=0.99, srcc=0.98)
        record = recipe.identity(table, split) | dict(
            split_index=index, seconds=60.5, device="cpu", precision="32-true", metrics=scores | dict(epoch=2)
        )
        record["metrics"]["test_best_optimistic"] = best
        write_run(folder, record, dict(commit="c" * 40, dirty=False))
        return pred

    return write


@pytest.fixture
def put_model() -> Callable[..., Path]:
    """A function that writes an untrained model of a seed as the model of a run, and returns the run folder."""

    def write(folder: Path, table: pd.DataFrame, seed: int = 0) -> Path:
        recipe = Recipe(pretrained=False, crop_size=32, crops=4, test_crops=3, embedding_dim=8, precision="32-true")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = QualityModel(recipe.backbone, False, recipe.embedding_dim, recipe.crop_size)
        moments = dict(mos_mean=50.0, mos_std=20.0, largest_short_side=100)
        save_model(folder / "model.safetensors", model, recipe.to_dict(), table, make_split(table, 0), **moments)
        return folder

    return write


def correlated(mos: pd.Series, plcc: float) -> list[float]:
    """Predictions of a given PLCC."""
    wave = np.sin(np.arange(len(mos)))
    _, along, across = np.linalg.qr(np.column_stack([np.ones(len(mos)), mos, wave]))[0].T
    sign = np.sign(along @ mos.to_numpy())
    return (50 + 20 * (sign * plcc * along + np.sqrt(1 - plcc**2) * across)).round(4).tolist()


@pytest.fixture(scope="module")
def own_module(tmp_path_factory) -> Path:
    """The folder of own data of a module: a benchmark.toml, twelve small images and their labels."""
    return write_own(tmp_path_factory.mktemp("data") / "own")
