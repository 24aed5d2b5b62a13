"""Variants are compared split by split, and a table says how sure it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lmcl_core import InputError, Recipe, ablation, load_benchmark
from lmcl_core.recipe import COMPARED, VARIANTS, variants_of


def found(**values):
    """A table of results: by recipe, one PLCC a split."""
    rows = [
        dict(
            recipe=name.replace("_", "-"),
            title=name,
            split=split,
            srcc=1 - plcc,
            plcc=plcc,
            n_train=20 if name == "train_20" else 80,
            n_test=20,
            share=20.2 if name == "train_20" else 80.1,
        )
        for name, plccs in values.items()
        for split, plcc in plccs.items()
    ]
    return pd.DataFrame(rows)


def test_every_variant_has_a_title_and_differs_from_the_method():
    assert set(ablation.TITLES) == set(VARIANTS) and len(set(ablation.TITLES.values())) == len(VARIANTS)
    there = variants_of("livec")
    assert set(VARIANTS) - set(there) == {"quality-aware"} and set(VARIANTS) - set(variants_of("demo")) == {
        *("equal-negatives", "no-correlation", "paper")
    }
    recipes = {name: Recipe.for_benchmark("livec", name) for name in there}
    assert len({recipe.hash for recipe in recipes.values()}) == len(there) and set(COMPARED) <= set(there)
    with pytest.raises(InputError, match="'quality-aware' is the preset of livec itself"):
        ablation.choose("livec", "quality-aware,inter", {})
    assert recipes["quality"].manifold_weight == recipes["quality"].mutual_weight == 0
    assert recipes["inter"].intra_weight == 0 < recipes["inter"].manifold_weight


def test_differences_are_taken_on_shared_splits_only():
    table = ablation.compare(found(quality={0: 0.5, 1: 0.6, 2: 0.7}, lmcl={1: 0.65, 2: 0.72, 3: 0.1}), "quality")
    assert list(table["recipe"]) == ["quality", "lmcl"]
    base, ours = table.iloc[0], table.iloc[1]
    assert base[["splits", "pairs", "median"]].tolist() == [3, 0, 0.6] and np.isnan(base["difference"])
    assert ours[["splits", "pairs", "median"]].tolist() == [3, 2, 0.65]
    assert ours["difference"] == pytest.approx(0.035) and ours["low"] < 0.02 and ours["high"] > 0.05


def test_the_other_metric_gives_its_own_differences():
    table = ablation.compare(found(quality={0: 0.5, 1: 0.6}, inter={0: 0.7, 1: 0.7}), "quality", metric="srcc")
    assert table["difference"].iloc[1] == pytest.approx(-0.15)


def test_the_interval_knows_how_few_images_a_share_was_trained_on():
    table = ablation.compare(found(lmcl={0: 0.8, 1: 0.8}, train_20={0: 0.5, 1: 0.6}, crops_2={0: 0.5, 1: 0.6}), "lmcl")
    width = (table["high"] - table["low"]).tolist()
    assert width[1] / width[2] == pytest.approx(np.sqrt((1 / 2 + 1) / (1 / 2 + 1 / 4)))


def test_a_baseline_that_was_not_run_is_named():
    with pytest.raises(InputError, match="no finished run of 'quality'"):
        ablation.compare(found(lmcl={0: 0.5}), "quality")


def test_the_corrected_interval_is_wider_than_students_and_has_its_centre():
    values = np.random.default_rng(0).normal(0.01, 0.02, size=10)
    plain = ablation.paired_difference(values, test_to_train=0)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (plain["low"], plain["high"]) == pytest.approx((low, high))
    wide = ablation.paired_difference(values)
    assert (wide["high"] - wide["low"]) / (high - low) == pytest.approx(np.sqrt((1 / 10 + 0.25) / (1 / 10)))
    assert (wide["low"] + wide["high"]) / 2 == pytest.approx(values.mean()) == wide["difference"]
    assert wide["p_wilcoxon"] == stats.wilcoxon(values).pvalue


def test_the_corrected_interval_covers_the_truth_of_repeated_random_splits():
    """Means over overlapping test parts of one sample; the plain interval misses far more often."""
    hits, plain_hits, trials = 0, 0, 120
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        values = rng.normal(size=100)  # per-image advantages whose mean is truly 0
        splits = [rng.permutation(100)[:20] for _ in range(10)]
        differences = [values[test].mean() for test in splits]
        wide, plain = (ablation.paired_difference(differences, ratio) for ratio in (0.25, 0.0))
        hits += wide["low"] <= 0 <= wide["high"]
        plain_hits += plain["low"] <= 0 <= plain["high"]
    assert hits / trials > 0.9 > plain_hits / trials


@pytest.mark.parametrize(
    "values, empty",
    [
        ([], {"difference", "low", "high", "p_wilcoxon"}),
        ([0.1], {"low", "high"}),
        ([0.0, 0.0], set()),
    ],
)
def test_what_too_few_splits_cannot_tell_is_empty(values, empty):
    told = ablation.paired_difference(values)
    assert {name for name, value in told.items() if np.isnan(value)} == empty
    if values == [0.0, 0.0]:
        assert told == dict(difference=0.0, low=0.0, high=0.0, p_wilcoxon=1.0)


def test_shares_come_with_the_splits_that_all_of_them_were_run_on():
    table = ablation.by_share(found(lmcl={0: 0.8, 1: 0.9, 2: 0.7}, train_20={0: 0.5, 1: 0.6}, quality={0: 0.7}))
    assert sorted(table[["share", "split", "plcc"]].itertuples(index=False, name=None)) == [
        (20, 0, 0.5),
        (20, 1, 0.6),
        (80, 0, 0.8),
        (80, 1, 0.9),
    ]
    assert ablation.by_share(found(lmcl={0: 0.8}, train_20={1: 0.5})).empty


def test_variants_are_chosen_by_name_in_the_order_of_the_table():
    assert list(ablation.choose("livec", "all", {})) == [name for name in ablation.TITLES if name != "quality-aware"]
    chosen = ablation.choose("demo", "no-manifold", {"epochs": 1})
    assert list(chosen) == ["quality", "lmcl", "no-manifold"] and {recipe.epochs for recipe in chosen.values()} == {1}
    assert chosen["quality"] == Recipe.for_benchmark("demo", "quality", epochs=1)


def test_an_unknown_variant_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="variant 'intra-v3'.*intra-v"):
        ablation.choose("livec", "intra-v3", {})
    with pytest.raises(InputError, match="'all,lmcl': write all alone"):
        ablation.choose("livec", "all,lmcl", {})


def test_a_change_that_a_variant_would_undo_is_refused():
    with pytest.raises(InputError, match="crops cannot be changed in 'crops-2', which sets it itself"):
        ablation.choose("livec", "all", {"crops": 6})
    with pytest.raises(InputError, match="name cannot be changed"):
        ablation.choose("livec", "all", {"name": "mine"})
    assert ablation.choose("livec", "no-manifold", {"crops": 6})["lmcl"].crops == 6


def test_results_tell_what_was_trained_on(tmp_path, livec, monkeypatch):
    table = load_benchmark("livec", livec)
    record = dict(metrics=dict(srcc=0.1, plcc=0.2, rmse=3.0, n=2), seconds=4.0, commit="c" * 40)
    monkeypatch.setattr(ablation.tables, "finished_record", lambda t, r, w, index, k: None if index == 2 else record)
    recipes = {name: Recipe.for_benchmark("livec", name) for name in ("train-40", "lmcl")}
    rows = ablation.results(table, recipes, tmp_path, range(3))
    assert rows["n_train"].tolist() == [5, 5, 10, 10] and rows["n_test"].tolist() == [2] * 4 and len(table) == 12
    assert rows["share"].tolist() == pytest.approx([500 / 12, 500 / 12, 1000 / 12, 1000 / 12]) and set(
        rows["commit"]
    ) == {"c" * 40}


def test_measures_of_two_recipes_are_compared_split_by_split():
    rows = [
        dict(recipe=recipe, split=split, measure=measure, value=base + split + better)
        for recipe, better in (("no-manifold", 0.0), ("other", 9.0), ("lmcl", -0.5))
        for measure, base in (("b", 10.0), ("a", 0.0))
        for split in range(3)
        if (recipe, measure, split) != ("lmcl", "a", 2)
    ]
    found = ablation.paired(pd.DataFrame(rows), "measure", "value")
    assert found["measure"].tolist() == ["b", "a"] and "other" not in found
    first, second = found.to_dict("records")
    assert (first["no-manifold"], first["lmcl"], first["splits"], first["lower"]) == (11, 10.5, 3, 3)
    assert (second["no-manifold"], second["splits"]) == (0.5, 2)  # splits of both alone
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
    compared = ablation.on_validation_parts(pd.DataFrame(rows).assign(data_hash="one"), "base")
    assert list(compared.columns) == ["name", "00-val", "01-val", "difference", "low", "high", "p_wilcoxon"]
    assert compared["name"].tolist() == ["better", "base", "better"]
    assert compared["difference"][0] == pytest.approx(0.065) and compared.loc[1, "difference":].isna().all()
    half = stats.t.ppf(0.975, 1) * np.std([0.05, 0.08], ddof=1) * np.sqrt(1 / 2 + 0.15 / 0.65)
    assert compared["high"][0] - compared["difference"][0] == pytest.approx(half)
    for name, message in (("bas", "did you mean 'base'"), ("better", "names several recipes")):
        with pytest.raises(InputError, match=message):
            ablation.on_validation_parts(pd.DataFrame(rows).assign(data_hash="one"), name)
    copies = pd.concat([pd.DataFrame(rows).assign(data_hash=copy) for copy in ("one", "other")])
    with pytest.raises(InputError, match="copies of the data"):
        ablation.on_validation_parts(copies, "base")
