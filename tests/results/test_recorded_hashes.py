"""Recipes keep their hash, so that recorded results and weights stay valid."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from lmcl_core import Recipe

FIGURES = Path(__file__).parents[2] / "figures"
#: Fields of earlier versions at the values of every run that the present version can repeat.
NEUTRAL = dict(stages=None, frozen_stages=0, probe=False, backbone_lr=None, batchnorm_momentum=0.05)
NEUTRAL |= dict(freeze_batchnorm=True, tested="student")
#: Tables with a recipe and its hash in every row, and the number of rows that the present version can repeat.
COUNTS = {"demo/records.csv": 30, "livec/records.csv": 63, "livec/records_again.csv": 3, "ledger.csv": 23}
COUNTS |= {
    "biq2021/records_4000.csv": 30,
    "biq2021/records_frozen.csv": 80,
    "livec/records_frozen.csv": 1050,
    "livec/records_share-20.csv": 20,
    "live_rerated/records.csv": 20,
    "live_rerated/records_frozen.csv": 1050,
    "ledger_frozen.csv": 63,
}


def recipes(name: str) -> list[tuple[dict, str]]:
    """Recipe and hash of each row whose retired fields are absent or neutral."""
    rows = pd.read_csv(FIGURES / name, dtype=str, keep_default_na=False)
    pairs = [(json.loads(recipe), recorded) for recipe, recorded in zip(rows["recipe"], rows["recipe_hash"])]
    return [pair for pair in pairs if all(pair[0].get(key, value) == value for key, value in NEUTRAL.items())]


def test_every_table_of_records_is_checked():
    found = {path.relative_to(FIGURES).as_posix() for path in FIGURES.glob("*/records*.csv")}
    assert found | {"ledger.csv", "ledger_frozen.csv"} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_recorded_recipes_keep_their_hash(name):
    found = recipes(name)
    assert len(found) == COUNTS[name] > 0
    for fields, recorded in found:
        assert Recipe.from_dict(fields).hash == recorded, fields["name"]
