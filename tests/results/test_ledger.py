"""The search ledger: configurations compared on validation parts, and the command that trains a row again."""

from __future__ import annotations

import json
import shlex

import pandas as pd
import pytest

from lmcl_core import InputError, Recipe
from lmcl_core.cli import parse_changes
from lmcl_core.results.ablation import on_validation_parts
from lmcl_core.results.ledger import COLUMNS, command, ledger_path, read_ledger, summarize


def rows(*runs) -> pd.DataFrame:
    """A ledger from name, split, PLCC and changed recipe fields of its rows."""
    found = []
    for name, split, plcc, changes in runs:
        recipe = Recipe.for_benchmark("livec", **{"name": name, **changes})
        row = dict(name=name, split=split, plcc=plcc, srcc=plcc - 0.02, plcc_student=plcc, plcc_teacher=plcc - 0.01)
        row |= dict(benchmark="livec", changes=str(changes), seconds=60.5, device="cpu", commit="c" * 40)
        row |= dict(recipe_hash=recipe.hash, data_hash="d" * 12, split_hash=f"split of {split}")
        found.append(row | dict(recipe=json.dumps(recipe.to_dict(), sort_keys=True)))
    return pd.DataFrame(found, columns=COLUMNS)


def test_a_ledger_is_read_as_it_was_written(tmp_path):
    written = rows(("a", "00-val", 0.8, {}), ("1", "01-val", 0.9, dict(lr=1e-4)))
    written.to_csv(tmp_path / "ledger.csv", index=False)
    pd.testing.assert_frame_equal(read_ledger(tmp_path / "ledger.csv"), written)
    missing = read_ledger(tmp_path / "missing.csv")
    assert missing.empty and list(missing) == COLUMNS


def test_an_ambiguous_or_unknown_baseline_is_refused():
    table = rows(("a", "00-val", 0.8, {}), ("a", "00-val", 0.8, dict(lr=1e-3)), ("b", "00-val", 0.8, dict(lr=1e-4)))
    assert summarize(table, "b")["configurations"].sum() == 2, "two recipes of one name are two configurations"
    with pytest.raises(InputError, match="'a' names several runs of a split"):
        summarize(table, "a")
    with pytest.raises(InputError, match="unknown configuration 'nothing': choose one of: a, b"):
        summarize(table, "nothing")


@pytest.mark.parametrize("compare", [summarize, on_validation_parts])
def test_repeated_rows_and_rows_of_several_benchmarks_are_named(compare):
    table = rows(("a", "00-val", 0.8, {}), ("b", "00-val", 0.8, dict(lr=1e-4)), ("b", "01-val", 0.8, dict(lr=1e-4)))
    with pytest.raises(InputError, match="several rows of 'b', split 01-val: remove all but one"):
        compare(pd.concat([table, table.tail(1)]), "a")
    with pytest.raises(InputError, match="rows of csiq and livec: keep those of one benchmark"):
        compare(pd.concat([table, table.assign(benchmark="csiq")]), "a")


@pytest.mark.parametrize("name", ["two words", "1"])
def test_the_command_trains_the_same_recipe_again(name):
    changed = dict(lr=1e-4, variant="v2", scales=(1.0, 2.0), flip=False, view_size=112, quality_sigma=None)
    row = rows((name, "03-val", 0.8, changed)).iloc[0]
    words = shlex.split(command(row))
    assert words[:7] == ["lmcl", "train", "--benchmark", "livec", "--data-root", "DIR", "--split"]
    assert words[7:9] == ["3", "--validation"] and words[9::2] == ["--set"] * (len(changed) + 1)
    recipe = Recipe.for_benchmark("livec", **parse_changes(words[10::2]))
    assert recipe.hash == row["recipe_hash"] and recipe.name == name


def test_every_row_of_the_project_can_be_trained_again_or_names_its_commit():
    ledger = read_ledger(ledger_path())
    assert ledger["split"].isin(["00-val", "01-val", "02-val"]).all() and not ledger["commit"].str.contains(" ").any()
    refused = 0
    for _, row in ledger.iterrows():
        try:
            changes = parse_changes(shlex.split(command(row))[10::2])
        except InputError as error:
            assert "no longer exists" in str(error) and row["commit"] in str(error)
            refused += 1
        else:
            assert Recipe.for_benchmark("livec", **changes).hash == row["recipe_hash"]
    assert (len(ledger), refused) == (33, 10)


def test_the_search_is_told_in_at_most_ten_rows_that_hold_every_configuration():
    tried = read_ledger(ledger_path())
    tried = tried[tried["benchmark"] == "livec"]
    told = summarize(tried, "sigma1-w02")
    assert len(told) <= 10 and "other" not in set(told["tried"]) and told["difference"].is_monotonic_decreasing
    assert told["configurations"].sum() == tried["name"].nunique() - 1


def test_the_decision_follows_from_the_mean_difference_on_shared_splits():
    changed = [("lr", 0.81, dict(lr=1e-4)), ("batch", 0.797, dict(batch_images=8)), ("v2", 0.7, dict(variant="v2"))]
    base = [("base", "00-val", 0.80, {}), ("base", "01-val", 0.90, {})]
    more = [("lr", "01-val", 0.93, dict(lr=1e-4)), ("lr", "02-val", 0.99, dict(lr=1e-4))]
    told = summarize(rows(*base, *((n, "00-val", p, c) for n, p, c in changed), *more), "base")
    assert told["difference"].tolist() == pytest.approx([0.02, -0.003, -0.1])
    assert told["tried"].tolist() == ["number of epochs, learning rate", "batch size", "manifold loss v2"]
    assert [text.split(":")[-1].strip() for text in told["decision"]] == [
        "better, not adopted",
        "the difference is below 0.005",
        "PLCC is lower",
    ]
