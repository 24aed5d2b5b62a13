"""Variants are compared split by split, and tables state their uncertainty."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmcl_core import InputError, Recipe
from lmcl_core.recipe import VARIANTS
from lmcl_core.results import ablation
from lmcl_core.results.tables import RunSet


def found(**values):
    """A table of results from the PLCC of each recipe on each split."""
    rows = [
        dict(recipe=name.replace("_", "-"), title=name, split=split, srcc=1 - plcc, plcc=plcc, n_test=20)
        | (dict(n_train=20, share=20.2) if name == "train_20" else dict(n_train=80, share=80.1))
        for name, by_split in values.items()
        for split, plcc in by_split.items()
    ]
    return pd.DataFrame(rows)


def test_variants_are_chosen_by_name_in_the_order_of_the_table():
    assert list(ablation.choose_variants("livec", "all", {})) == [name for name in VARIANTS if name != "quality-aware"]
    chosen = ablation.choose_variants("demo", "no-manifold", {"epochs": 1})
    assert list(chosen) == ["quality", "lmcl", "no-manifold"] and {recipe.epochs for recipe in chosen.values()} == {1}
    assert chosen["quality"] == Recipe.for_benchmark("demo", "quality", epochs=1)


@pytest.mark.parametrize(
    "variants, changes, message",
    [
        ("intra-v3", {}, "variant 'intra-v3'.*intra-v"),
        ("quality-aware,inter", {}, "'quality-aware' equals the benchmark's preset"),
        ("all", {"crops": 6}, "crops defines the variant 'crops-2'"),
    ],
)
def test_unusable_variants_and_changes_are_refused(variants, changes, message):
    with pytest.raises(InputError, match=message):
        ablation.choose_variants("livec", variants, changes)


def test_results_list_finished_runs_and_the_images_they_were_trained_on(table, tmp_path, put_run):
    run_sets = {}
    for name in ("train-40", "lmcl"):
        for index in (0, 1):
            put_run(tmp_path, table, index, name)
        run_sets[name] = RunSet(table, Recipe.for_benchmark("livec", name), tmp_path)
    rows = ablation.results(run_sets, range(3))
    assert rows[["recipe", "split"]].values.tolist() == [["train-40", 0], ["train-40", 1], ["lmcl", 0], ["lmcl", 1]]
    assert rows["n_train"].tolist() == [12, 12, 24, 24] and rows["n_test"].tolist() == [6] * 4
    assert rows["share"].tolist() == pytest.approx([40, 40, 80, 80]) and set(rows["commit"]) == {"c" * 40}
    assert rows["plcc"].tolist() == pytest.approx([0.8] * 4, abs=1e-4) and rows["title"][2] == VARIANTS["lmcl"].title


def test_differences_use_shared_splits_only():
    rows = found(quality={0: 0.5, 1: 0.6, 2: 0.7}, lmcl={1: 0.65, 2: 0.72, 3: 0.1})
    table = ablation.compare_variants(rows, "quality")
    assert list(table["recipe"]) == ["quality", "lmcl"]
    base, ours = table.iloc[0], table.iloc[1]
    assert base[["splits", "pairs", "median"]].tolist() == [3, 0, 0.6] and np.isnan(base["difference"])
    assert ours[["splits", "pairs", "median"]].tolist() == [3, 2, 0.65]
    assert ours["difference"] == pytest.approx(0.035) and ours["low"] < 0.02 and ours["high"] > 0.05


def test_the_interval_is_wider_for_a_smaller_training_part():
    rows = found(lmcl={0: 0.8, 1: 0.8}, train_20={0: 0.5, 1: 0.6}, crops_2={0: 0.5, 1: 0.6})
    table = ablation.compare_variants(rows, "lmcl")
    width = (table["high"] - table["low"]).tolist()
    assert width[1] / width[2] == pytest.approx(np.sqrt((1 / 2 + 1) / (1 / 2 + 1 / 4)))


def test_the_corrected_interval_is_wider_than_students_and_has_the_same_centre():
    values = np.random.default_rng(0).normal(0.01, 0.02, size=10)
    plain = ablation.paired_difference(values, test_to_train=0)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (plain["low"], plain["high"]) == pytest.approx((low, high))
    wide = ablation.paired_difference(values)
    assert (wide["high"] - wide["low"]) / (high - low) == pytest.approx(np.sqrt((1 / 10 + 0.25) / (1 / 10)))
    assert (wide["low"] + wide["high"]) / 2 == pytest.approx(values.mean()) == wide["difference"]
    assert wide["p_wilcoxon"] == stats.wilcoxon(values).pvalue


def test_values_that_too_few_splits_cannot_give_are_nan():
    assert all(np.isnan(value) for value in ablation.paired_difference([]).values())
    single = ablation.paired_difference([0.1])
    assert single["difference"] == 0.1 and np.isnan([single["low"], single["high"]]).all()
    assert ablation.paired_difference([0.0, 0.0]) == dict(difference=0.0, low=0.0, high=0.0, p_wilcoxon=1.0)


def test_shares_are_compared_on_the_splits_of_all_of_them():
    table = ablation.by_share(found(lmcl={0: 0.8, 1: 0.9, 2: 0.7}, train_20={0: 0.5, 1: 0.6}, quality={0: 0.7}))
    rows = sorted(table[["share", "split", "plcc"]].itertuples(index=False, name=None))
    assert rows == [(20, 0, 0.5), (20, 1, 0.6), (80, 0, 0.8), (80, 1, 0.9)]
    assert ablation.by_share(found(lmcl={0: 0.8}, train_20={1: 0.5})).empty


def test_measures_of_two_variants_are_compared_split_by_split():
    rows = [
        dict(recipe=recipe, split=split, measure=measure, value=base + split + better)
        for recipe, better in (("no-manifold", 0.0), ("other", 9.0), ("lmcl", -0.5))
        for measure, base in (("b", 10.0), ("a", 0.0))
        for split in range(3)
        if (recipe, measure, split) != ("lmcl", "a", 2)
    ]
    table = ablation.compare_measures(pd.DataFrame(rows), "measure", "value")
    assert table["measure"].tolist() == ["b", "a"] and "other" not in table
    first, second = table.to_dict("records")
    assert (first["no-manifold"], first["lmcl"], first["splits"], first["lower"]) == (11, 10.5, 3, 3)
    assert (second["no-manifold"], second["splits"]) == (0.5, 2), "only splits of both variants count"
    assert first["difference"] == first["low"] == first["high"] == -0.5


def test_validation_parts_are_compared_split_by_split():
    plcc = dict(base=[0.80, 0.70], better=[0.85, 0.78], once=[0.9, None], elsewhere=[None, None])
    rows = [
        dict(name=name, recipe_hash=name, split=f"{split:02d}-val", plcc=value)
        for name, values in plcc.items()
        for split, value in enumerate(values)
        if value is not None
    ]
    rows += [dict(name=name, recipe_hash=name, split="05-val", plcc=0.1) for name in ("elsewhere", "better")]
    rows += [dict(name="better", recipe_hash="another", split=f"{split:02d}-val", plcc=0.3) for split in range(2)]
    ledger = pd.DataFrame(rows).assign(data_hash="one", benchmark="livec")
    compared = ablation.on_validation_parts(ledger, "base")
    assert list(compared.columns) == ["name", "00-val", "01-val", "difference", "low", "high", "p_wilcoxon"]
    assert compared["name"].tolist() == ["better", "base", "better"]
    assert compared["difference"][0] == pytest.approx(0.065) and compared.loc[1, "difference":].isna().all()
    half = stats.t.ppf(0.975, 1) * np.std([0.05, 0.08], ddof=1) * np.sqrt(1 / 2 + 0.15 / 0.65)
    assert compared["high"][0] - compared["difference"][0] == pytest.approx(half)
    with pytest.raises(InputError, match="names several recipes"):
        ablation.on_validation_parts(ledger, "better")


def test_variants_in_words_have_a_verdict_that_follows_from_their_interval():
    base = {0: 0.8, 1: 0.81, 2: 0.82}
    values = dict(quality=base, better={0: 0.9, 1: 0.911, 2: 0.92}, same=base | {0: 0.801})
    printed = ablation.variants_in_words(ablation.compare_variants(found(**values, wide={0: 0.5, 1: 0.9}), "quality"))
    assert printed.frame["variant"].tolist() == ["better", "same", "wide"] and printed.frame.shape[1] <= 8
    better, same, wide = printed.frame["verdict"]
    assert (better, wide) == ("higher PLCC", "undecided") and same.startswith("no difference larger than 0.00")


@pytest.mark.parametrize("higher_is_better, expected", [(False, "against the loss"), (True, "for the loss")])
def test_measures_in_words_say_whether_they_favour_the_loss(higher_is_better, expected):
    columns = {"measure": ["hard_pair_share", "m"], "no-manifold": [0.2, 10.0], "lmcl": [0.3, 10.1], "splits": 3}
    compared = pd.DataFrame({**columns, "difference": [0.1, 0.1], "low": [0.05, -0.3], "high": [0.15, 0.5]})
    printed = ablation.measures_in_words(compared, {"hard_pair_share": "hard pairs"}, higher_is_better).frame
    assert printed["measure"].tolist() == ["hard pairs", "m"]
    assert printed["verdict"].tolist() == [expected, "no difference larger than 0.500"]


def test_seeds_are_averaged_where_all_of_them_were_run():
    parts = [found(lmcl={0: 0.8, 1: 0.7}), found(lmcl={0: 0.9})]
    parts = [part.assign(rmse=1.0, seconds=1.0, commit="a")[ablation._COLUMNS] for part in parts]
    row = ablation.average_seeds(parts)
    assert len(row) == 1 and row["plcc"].item() == pytest.approx(0.85) and row["n_train"].item() == 80
    assert ablation.average_seeds(parts[:1]) is parts[0]


def test_distortions_are_compared_on_splits_that_both_recipes_have(table, tmp_path, put_run):
    table["distortion"] = ["blur", "noise"] * 15
    put_run(tmp_path, table, 0, "quality", plcc=0.5)
    put_run(tmp_path, table, 0, "lmcl", plcc=1.0)
    put_run(tmp_path, table, 1, "lmcl")
    run_sets = {name: RunSet(table, Recipe.for_benchmark("livec", name), tmp_path) for name in ablation.BASELINES}
    rows = ablation.by_distortion(run_sets, range(3)).set_index(["recipe", "distortion"])
    assert set(rows["split"]) == {0} and rows.loc["lmcl", "plcc"].min() == pytest.approx(1.0)
    assert ablation.by_distortion(run_sets, [1]).empty
