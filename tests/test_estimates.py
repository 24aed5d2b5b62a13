"""Time and room, told before a batch is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcl_core import Recipe, estimates, load_benchmark
from lmcl_core.pictures import decode
from lmcl_core.store import PictureStore


@pytest.fixture
def table(livec):
    return load_benchmark("livec", livec)


def test_room_for_the_store_is_what_the_store_takes(table):
    exact = sum(decode(Path(table.attrs["root"]) / image).size for image in table["image"])
    assert estimates.store_bytes(table, [None]) == exact
    PictureStore.open(table)
    assert estimates.store_bytes(table, [None]) == 0


def test_a_short_side_makes_the_store_smaller(table):
    whole, small = (estimates.store_bytes(table, [side]) for side in (None, 24))
    assert small < whole / 3
    assert estimates.store_bytes(table, [None, 24, 24]) == pytest.approx(whole + small, abs=1)


def test_time_grows_with_epochs_and_views(table):
    costs = (0.1, 0.01)
    once = estimates.run_seconds(Recipe(epochs=1, crops=4, test_crops=9), table, costs)
    testing = 2 * (9 + 4 + 1) * 0.01
    assert once == pytest.approx(10 * 5 * 0.1 + 2 * testing)
    large = estimates.run_seconds(Recipe(epochs=1, crops=4, test_crops=9, view_size=448), table, costs)
    assert large == pytest.approx(10 * (4 + 4) * 0.1 + 2 * 2 * (9 + 4 + 4) * 0.01)  # a view of twice the side: 4 crops
    three = estimates.run_seconds(Recipe(epochs=3, crops=4, test_crops=9), table, costs)
    assert three == pytest.approx(3 * once - 2 * testing)


def test_a_crop_costs_more_in_training_than_at_test():
    train, test = estimates.crop_seconds(Recipe(pretrained=False, crop_size=64, crops=2), "cpu")
    assert train > test > 0


def test_finished_runs_of_the_same_recipe_tell_the_time(tmp_path):
    recipe = Recipe()
    for index, (seconds, which) in enumerate([(10, recipe.hash), (30, recipe.hash), (1000, "another")]):
        folder = tmp_path / f"split-{index:02d}"
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(dict(seconds=seconds, recipe_hash=which)))
    assert estimates.past_seconds(tmp_path, recipe) == 20
    assert estimates.past_seconds(tmp_path / "none", recipe) is None
