"""Time and disk space of a batch, estimated before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcl_core import Recipe, load_benchmark
from lmcl_core.batch import forecast as module
from lmcl_core.batch.forecast import forecast
from lmcl_core.batch.reproduce import ReproduceOptions
from lmcl_core.data.images import decode
from lmcl_core.data.store import ImageStore
from lmcl_core.runs.folder import write_run


@pytest.fixture
def table(livec):
    return load_benchmark("livec", livec)


def test_the_estimated_size_of_a_store_is_its_real_size_and_smaller_with_a_short_side(table):
    exact = sum(decode(Path(table.attrs["root"]) / image).size for image in table["image"])
    small = module.store_bytes(table, [24])
    assert module.store_bytes(table, [None]) == exact and small < exact / 3
    assert module.store_bytes(table, [None, 24, 24]) == pytest.approx(exact + small, abs=1)
    ImageStore.open(table)
    assert module.store_bytes(table, [None]) == 0


def test_time_grows_with_epochs_and_the_size_of_the_view(table):
    costs = (0.1, 0.01)
    once = module.run_seconds(Recipe(epochs=1, crops=4, test_crops=9), table, costs)
    testing = 2 * (9 + 4 + 1) * 0.01
    assert once == pytest.approx(10 * 5 * 0.1 + 2 * testing)
    large = module.run_seconds(Recipe(epochs=1, crops=4, test_crops=9, view_size=448), table, costs)
    assert large == pytest.approx(10 * (4 + 4) * 0.1 + 2 * 2 * (9 + 4 + 4) * 0.01)  # twice the side: 4 crops
    three = module.run_seconds(Recipe(epochs=3, crops=4, test_crops=9), table, costs)
    assert three == pytest.approx(3 * once - 2 * testing)


@pytest.mark.slow
def test_a_crop_costs_more_in_training_than_at_test():
    train, test = module.crop_seconds(Recipe(pretrained=False, crop_size=64, crops=2), "cpu")
    assert train > test > 0


def test_the_time_of_a_run_is_the_median_of_finished_runs_of_the_same_recipe(tmp_path):
    recipe = Recipe()
    runs = {"00": (10, recipe.hash), "01": (30, recipe.hash), "02": (1000, "other"), "00-val": (999, recipe.hash)}
    for index, (seconds, which) in runs.items():
        folder = tmp_path / f"split-{index}"
        folder.mkdir()
        write_run(folder, dict(seconds=seconds, recipe_hash=which))
    assert module.past_seconds(tmp_path, recipe) == 20
    assert module.past_seconds(tmp_path / "none", recipe) is None


def test_recipes_whose_crops_cost_the_same_are_timed_once(tmp_path, livec, monkeypatch):
    timed = []
    monkeypatch.setattr(module, "crop_seconds", lambda recipe, device: timed.append(recipe) or (1.0, 1.0))
    changes = dict(crop_size=32, crops=2, pretrained=False)
    options = ReproduceOptions("all", str(livec), 2, str(tmp_path / "runs"), changes=changes)
    lines: list[str] = []
    [row] = forecast(options, lines.append).itertuples()
    assert row.benchmark == "livec" and lines[0].startswith("left out, their folders are missing: live, csiq, ")
    assert len(timed) == 1 and (row.runs, row.finished, row.basis) == (4, 0, "timed now")
    assert row.minutes > 0 and not (tmp_path / "runs").exists()


def test_features_of_a_frozen_backbone_are_counted_once_in_the_precision_of_the_backbone(table, monkeypatch):
    monkeypatch.setattr(module, "feature_seconds", lambda recipe, device: 0.5)
    monkeypatch.setattr(module, "crop_seconds", None)  # fails if it is called
    recipe, costs = Recipe.for_benchmark(table, network="clip-b16-frozen", bank_crops=6, test_crops=9), {}
    assert module._seconds_to_do(recipe, table, 2, "cpu", costs) == 12 * (6 + 9 + 4 + 1) * 0.5
    assert module._seconds_to_do(recipe, table, 2, "cpu", costs) == 0
