"""The paper's table from finished runs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from lmcl_core import InputError, Recipe, load_benchmark, make_split, metrics, runs, tables

from layouts import write_results


@pytest.fixture
def table(livec):
    return load_benchmark("livec", livec)


@pytest.fixture
def recipe():
    return Recipe.for_benchmark("livec")


def write_run(where, table, recipe, index: int, noise: float = 5.0, **extra) -> pd.DataFrame:
    """A finished run whose predictions are opinions with noise."""
    split = make_split(table, index, test=0.5)
    split = type(split)(split.train, split.val, split.test, index)
    test = table.iloc[make_split(table, index).test if len(make_split(table, index).test) > 2 else split.test]
    rng = np.random.default_rng(index)
    pred = test["mos"] + noise * rng.normal(size=len(test))
    folder = runs.run_folder(where, "livec", recipe.name, index)
    last = {**metrics(pred=pred, mos=test["mos"]), "epoch": 2}
    predictions = pd.DataFrame(dict(image=test["image"], mos=test["mos"], pred=pred))
    write_results(folder, predictions)
    best = {**last, "plcc": 0.99, "srcc": 0.98, "epoch": 1}
    record = dict(runs.identity(table, make_split(table, index), recipe), seconds=60.0)
    record |= dict(metrics={**last, "test_best_optimistic": best}, **extra)
    (folder / "run.json").write_text(json.dumps(record))
    return predictions


def test_only_finished_runs_are_found(table, recipe, tmp_path):
    for index in (0, 2):
        write_run(tmp_path / "runs", table, recipe, index)
    assert tables.finished_splits(table, recipe, tmp_path / "runs", range(4)) == [0, 2]
    assert tables.finished_splits(table, recipe, tmp_path / "runs", range(1, 4)) == [2]


def test_a_run_of_another_recipe_is_refused(table, recipe, tmp_path):
    write_run(tmp_path / "runs", table, recipe, 0)
    with pytest.raises(InputError, match="holds another run"):
        tables.finished_splits(table, Recipe.for_benchmark("livec", lr=1.0), tmp_path / "runs", [0])


def test_a_row_a_split_from_the_predictions_themselves(table, recipe, tmp_path):
    predictions = write_run(tmp_path / "runs", table, recipe, 0)
    row = tables.by_split(table, recipe, tmp_path / "runs", [0]).iloc[0]
    assert row["plcc"] == pytest.approx(np.corrcoef(predictions["pred"], predictions["mos"])[0, 1])
    assert row["plcc_low"] <= row["plcc"] <= row["plcc_high"] and row["plcc_best_epoch_optimistic"] == 0.99
    assert row["n"] == len(predictions)


def test_no_finished_run_gives_empty_tables(table, recipe, tmp_path):
    assert len(tables.read_predictions(table, recipe, tmp_path, [])) == 0
    assert len(tables.by_split(table, recipe, tmp_path, [])) == 0


def results(values) -> pd.DataFrame:
    columns = ["srcc", "plcc", "srcc_best_epoch_optimistic", "plcc_best_epoch_optimistic", "plcc_logistic_optimistic"]
    return pd.DataFrame({column: values for column in columns})


def test_the_summary_is_the_median_with_its_range_and_empty_where_nothing_ran():
    whole = tables.summary({"livec": results([0.9, 0.7, 0.8])}).set_index("benchmark")
    assert list(whole.index) == ["live", "csiq", "tid2013", "kadid10k", "livec", "koniq10k", "livefb", "spaq"]
    row = whole.loc["livec"]
    assert (row["splits"], row["plcc"], row["plcc_min"], row["plcc_max"]) == (3, 0.8, 0.7, 0.9)
    assert pd.isna(row["plcc_low"]), "three splits are too few for an interval"
    assert whole.drop("livec")["plcc"].isna().all() and (whole.drop("livec")["splits"] == 0).all()


def test_six_splits_have_an_interval_inside_their_range():
    values = [0.80, 0.82, 0.84, 0.86, 0.88, 0.90]
    row = tables.summary({"livec": results(values)}).set_index("benchmark").loc["livec"]
    assert 0.80 <= row["plcc_low"] < row["plcc"] < row["plcc_high"] <= 0.90


def test_the_demo_stands_in_the_summary_only_where_it_ran():
    assert "demo" not in set(tables.summary({})["benchmark"])
    assert "demo" in set(tables.summary({"demo": results([0.5])})["benchmark"])


def test_a_negative_correlation_stays_negative():
    row = tables.summary({"livec": results([-0.5, -0.6, -0.4])}).set_index("benchmark").loc["livec"]
    assert row["srcc"] == -0.5


def test_the_printed_table_holds_the_papers_claim_the_difference_and_the_strongest_rival():
    printed = tables.paper_table(tables.summary({"livec": results([0.9, 0.7, 0.8])})).set_index("benchmark")
    row = printed.loc["LIVEC"]
    assert (
        row["paper"] == "0.914 v1"
        and printed.loc["TID2013", "paper"] == "0.942 v1 and v2"
        and row["difference"] == pytest.approx(0.8 - 0.914)
    )
    assert (
        row["strongest rival"].startswith("0.9")
        and row["PLCC spread"] == "0.700 to 0.900"
        and pd.isna(row["PLCC interval"])
    )
    published = tables.published_results().query("benchmark == 'livec'")
    rivals = published[~published["method"].str.startswith("LML-IQA")].dropna(subset=["plcc"]).sort_values("plcc")
    assert row["logistic (optimistic)"] == 0.8 and row["sources"] == "arXiv 2406.19247v1; " + rivals["source"].iloc[-1]
    assert float(row["strongest rival"].split()[0]) == rivals["plcc"].max() == 0.94
    assert printed.loc["KADID-10k", "strongest rival"].startswith("0.973")


def test_latex_has_a_row_a_benchmark_and_dashes_for_what_was_not_run():
    text = tables.to_latex(tables.paper_table(tables.summary({"livec": results([0.9, 0.7, 0.8])})))
    assert text.startswith("% needs \\usepackage{booktabs}") and "\n\\begin{tabular}" in text and "\\toprule" in text
    row = next(line for line in text.splitlines() if line.startswith("KADID"))
    assert "--" in row and "nan" not in text.lower() and "<NA>" not in text


def test_ours_stands_beside_every_published_result_with_its_difference():
    beside = tables.beside_published("livec", results([0.9, 0.7, 0.8]))
    published = tables.published_results().query("benchmark == 'livec'")
    assert len(beside) == len(published) and (beside["ours_plcc"] == 0.8).all()
    row = beside.set_index("method").loc["TOPIQ-NR"]
    assert row["difference_srcc"] == pytest.approx(0.8 - row["published_srcc"])


def test_published_results_are_sourced_correlations_of_known_benchmarks():
    published = tables.published_results()
    assert published["source"].str.len().min() > 3 and published["protocol"].str.len().min() > 3
    assert published[["srcc", "plcc"]].stack().dropna().between(0.3, 1).all()
    assert not published.duplicated(["benchmark", "method"]).any()
    from lmcl_core import BENCHMARKS

    assert set(published["benchmark"]) <= set(BENCHMARKS)
