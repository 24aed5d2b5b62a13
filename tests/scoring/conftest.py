"""A small untrained model that the tests of scoring share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lmcl_core import QualityModel, Recipe, Split
from lmcl_core.runs.model_file import save_model

RECIPE = Recipe(pretrained=False, crop_size=32, test_crops=3, precision="32-true")


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A model file with random weights, 3 test crops of 32 pixels, and a largest short side of 120 pixels."""
    table = pd.DataFrame({"mos": np.arange(0, 101, dtype=float)})
    table.attrs.update(benchmark="livec", mos_range=(0.0, 100.0))
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = QualityModel(pretrained=False, crop_size=32).eval()
    split = Split(np.arange(0, 81), np.array([], dtype=int), np.arange(81, 101), 0)
    save_model(path, model, RECIPE.to_dict(), table, split, mos_mean=55.0, mos_std=12.0, largest_short_side=120)
    return path
