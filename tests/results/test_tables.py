"""The paper's table is made from finished runs, and from records of runs that are missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmcl_core import BENCHMARKS, InputError, Recipe, make_split
from lmcl_core.results import tables
from lmcl_core.results.tables import RunSet, paper_table, summarize_splits


@pytest.fixture
def run_set(table, tmp_path):
    """Runs of the method on LIVEC, of which there are none yet."""
    return RunSet(table, Recipe.for_benchmark("livec"), tmp_path / "runs")


def test_only_finished_runs_are_found(run_set, table, put_run):
    assert len(run_set.predictions([])) == len(tables.by_split(run_set, [])) == 0
    for index in (0, 2):
        put_run(run_set.runs_dir, table, index)
    assert run_set.finished(range(4)) == [0, 2] and run_set.finished(range(1, 4)) == [2]
    assert run_set.folder(2) == run_set.runs_dir / "livec" / "lmcl" / "split-02"
    assert run_set.record(0)["seconds"] == 60.5 and run_set.record(1) is None
    with pytest.raises(InputError, match="no finished run: train it, or leave split 1 out"):
        run_set.predictions([1])


def test_a_changed_recipe_has_runs_of_its_own_beside_those_of_the_preset(run_set, table, put_run):
    put_run(run_set.runs_dir, table, 0)
    changed = RunSet(table, Recipe.for_benchmark("livec", lr=1e-3), run_set.runs_dir)
    assert changed.finished([0]) == [] and changed.folder(0).parent.parent == run_set.folder(0).parent.parent
    put_run(run_set.runs_dir, table, 0, plcc=0.5, lr=1e-3)
    results = [tables.by_split(runs, [0])["plcc"].item() for runs in (run_set, changed)]
    assert results == pytest.approx([0.8, 0.5], abs=1e-4)


def test_predictions_come_with_their_split_content_and_distortion(run_set, table, put_run):
    for index in (0, 1):
        put_run(run_set.runs_dir, table, index)
    predictions = run_set.predictions([0, 1])
    assert set(predictions) == {"split", "image", "mos", "pred", "content", "distortion"}
    assert predictions["split"].tolist() == [0] * 6 + [1] * 6
    rows = table.set_index("image").loc[predictions["image"]]
    assert predictions["distortion"].fillna("").tolist() == rows["distortion"].fillna("").tolist()
    assert predictions["content"].tolist() == rows["content"].tolist()


def test_a_row_a_split_holds_the_metrics_of_the_last_epoch_with_an_interval(run_set, table, put_run):
    pred = put_run(run_set.runs_dir, table, 0)
    row = tables.by_split(run_set, [0]).iloc[0]
    assert row["plcc"] == pytest.approx(np.corrcoef(pred, table["mos"].iloc[make_split(table, 0).test])[0, 1])
    assert row["plcc_low"] <= row["plcc"] <= row["plcc_high"] and row["n"] == 6
    assert (row["plcc_best_epoch_optimistic"], row["srcc_best_epoch_optimistic"]) == (0.99, 0.98)


def results(*values) -> pd.DataFrame:
    columns = ["srcc", "plcc", "srcc_best_epoch_optimistic", "plcc_best_epoch_optimistic", "plcc_logistic_optimistic"]
    return pd.DataFrame({column: values for column in columns})


def test_the_summary_holds_median_and_range_and_is_empty_without_runs():
    summary = summarize_splits({"livec": results(0.9, 0.7, 0.8)}).set_index("benchmark")
    assert list(summary.index) == ["live", "csiq", "tid2013", "kadid10k", "livec", "koniq10k", "livefb", "spaq"]
    row = summary.loc["livec"]
    assert (row["splits"], row["plcc"], row["plcc_min"], row["plcc_max"]) == (3, 0.8, 0.7, 0.9)
    assert pd.isna(row["plcc_low"]), "three splits are too few for an interval"
    assert summary.drop("livec")["plcc"].isna().all() and (summary.drop("livec")["splits"] == 0).all()
    negative = summarize_splits({"demo": results(-0.80, -0.82, -0.84, -0.86, -0.88, -0.90)}).set_index("benchmark")
    row = negative.loc["demo"]
    assert -0.90 <= row["plcc_low"] < row["plcc"] < row["plcc_high"] <= -0.80 and row["srcc"] == -0.85


def test_the_printed_table_has_the_papers_claim_ours_and_the_difference_of_what_was_run():
    printed = paper_table(summarize_splits({"livec": results(0.9, 0.7, 0.8)}))
    row = printed.frame.set_index("benchmark").loc["LIVEC"]
    assert list(printed.frame)[2:5] == ["paper", "ours", "difference"] and len(printed.frame) == 1
    assert row["paper"] == "0.914 (v1) [1]" and row["ours"] == 0.8 and row["range"] == "0.700 to 0.900"
    assert row["difference"] == pytest.approx(0.8 - 0.914)
    published = tables.published_results().query("benchmark == 'livec'")
    rivals = published[~published["method"].str.startswith("LML-IQA")].dropna(subset=["plcc"]).sort_values("plcc")
    assert row["best published"] == f"0.940 {rivals['method'].iloc[-1]} [2]"
    assert printed.notes[1:3] == ["[1] arXiv 2406.19247v1", f"[2] {rivals['source'].iloc[-1]}"]
    assert printed.notes[-1] == "Not run: LIVE, CSIQ, TID2013, KADID-10k, KonIQ-10k, LIVEFB, SPAQ."


def test_latex_has_a_row_a_benchmark_dashes_in_empty_cells_and_the_notes():
    text = tables.to_latex(paper_table(summarize_splits({"livec": results(0.9), "demo": results(0.8)})))
    assert text.startswith("% needs \\usepackage{booktabs}") and "\n\\begin{tabular}" in text and "\\toprule" in text
    row = next(line for line in text.splitlines() if line.startswith("Demo"))
    assert "--" in row and "nan" not in text.lower() and "<NA>" not in text and "[2] NR\\_IQA" in text


def test_tables_for_reading_have_at_most_eight_columns_and_number_their_sources(run_set, table, put_run):
    put_run(run_set.runs_dir, table, 0)
    result = tables.by_split(run_set, [0])
    by_split, beside = tables.splits_in_words(result), tables.beside_published("livec", result)
    published = tables.published_in_words(beside)
    assert by_split.frame.shape == (1, 8) and published.frame.shape[1] <= 8
    assert by_split.frame["95 % interval of PLCC"].item().startswith(f"{result['plcc_low'].item():.3f} to ")
    assert published.frame["method"].iloc[0].endswith("[1]") and beside["source"].iloc[0] in published.notes[0]


def test_predictions_that_shrink_have_a_slope_above_1():
    mos = np.linspace(0, 100, 20)
    predictions = pd.DataFrame(dict(split=np.repeat([0, 1], 20), mos=[*mos, *mos], pred=[*(mos / 2), *(mos / 4 + 9)]))
    assert tables.slope(predictions) == (pytest.approx(3), "predictions are shrunk towards the mean")
    assert tables.slope(predictions.assign(pred=2 * predictions["mos"]))[1] == "predictions are spread too far"
    assert "as they should" in tables.slope(predictions.assign(pred=predictions["mos"]))[1]


def test_the_best_half_of_random_splits_gains_what_order_statistics_predict():
    plcc = 0.8 + 0.02 * np.random.default_rng(0).standard_normal(400)
    optimistic = dict(plcc_best_epoch_optimistic=plcc + 0.01, plcc_logistic_optimistic=plcc + 0.005)
    found = tables.reporting_habits(pd.DataFrame(dict(plcc=plcc, **optimistic))).set_index("habit")
    assert found["difference"].tolist()[:3] == pytest.approx([0, 0.01, 0.005])
    half = found.loc["the best 200 of 400 splits"]
    assert half["difference"] == pytest.approx(half["expected"], rel=0.1) and half["expected"] > 0.01
    assert found["plcc"].iloc[-1] == pytest.approx(half["plcc"] + 0.01)
    drawn = tables.reporting_habits(pd.DataFrame(dict(plcc=plcc, **optimistic, plcc_random_crops=plcc - 0.02)))
    assert drawn["habit"].iloc[-1] == "random test crops" and drawn["difference"].iloc[-1] == pytest.approx(-0.02)


def test_our_medians_are_listed_beside_every_published_result():
    beside = tables.beside_published("livec", results(0.9, 0.7, 0.8))
    assert len(beside) == (tables.published_results()["benchmark"] == "livec").sum()
    row = beside.set_index("method").loc["TOPIQ-NR"]
    assert row["ours_plcc"] == 0.8 and row["difference_srcc"] == pytest.approx(0.8 - row["published_srcc"])
    assert tables.beside_published("livec", results())["ours_plcc"].isna().all()


def test_published_results_are_sourced_correlations_of_known_benchmarks():
    published = tables.published_results()
    assert published["source"].str.len().min() > 3 and published["protocol"].str.len().min() > 3
    assert published[["srcc", "plcc"]].stack().dropna().between(0.3, 1).all()
    assert not published.duplicated(["benchmark", "method"]).any() and set(published["benchmark"]) <= set(BENCHMARKS)
