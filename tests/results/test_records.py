"""Recorded results replace runs that are missing, and no other ones."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from layouts import write_csiq, write_results

from lmcl_core import InputError, Recipe, load_benchmark, make_split, metrics
from lmcl_core.recipe import variants_of
from lmcl_core.results import ablation, records, tables
from lmcl_core.results.records import RunSet, describe_records, find_record, load_records, main, read_records
from lmcl_core.results.records import recorded_predictions, records_path, update_records
from lmcl_core.runs.folder import run_folder, write_run


@pytest.fixture
def file(tmp_path):
    """Path of a table of records, which does not exist yet."""
    return tmp_path / "records.csv"


@pytest.fixture
def known(file, table, tmp_path, put_run):
    """Records of the method's run on split 0; the run folder is ``runs``."""
    put_run(tmp_path / "runs", table, 0)
    update_records(file, tmp_path / "runs", table)
    return read_records(file)


@pytest.fixture
def missing(table, tmp_path, known):
    """The same runs in a folder that does not exist, so that they are read from records."""
    return RunSet(table, Recipe.for_benchmark("livec"), tmp_path / "nowhere", known)


def test_a_recorded_run_gives_the_same_tables_as_its_folder(table, file, tmp_path, put_run):
    pred = put_run(tmp_path / "runs", table, 3)
    added, replaced = update_records(file, tmp_path / "runs", table)
    assert len(added) == 1 and replaced.empty
    recipe, known = Recipe.for_benchmark("livec"), read_records(file)
    recorded = RunSet(table, recipe, tmp_path / "nowhere", known)
    assert RunSet(table, recipe, tmp_path / "nowhere").finished(range(5)) == [] and recorded.finished(range(5)) == [3]
    predictions = recorded.predictions([3])
    assert predictions["pred"].tolist() == pytest.approx(pred, rel=1e-5)
    assert predictions["image"].tolist() == table["image"][make_split(table, 3).test].tolist()
    found, expected = (
        tables.by_split(run_set, [3]).drop(columns=["plcc_low", "plcc_high"])  # the bootstrap depends on row order
        for run_set in (recorded, RunSet(table, recipe, tmp_path / "runs"))
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)
    row = known.iloc[0]
    assert (row["commit"], row["device"], row["precision"]) == ("c" * 40, "cpu", "32-true")


def test_records_are_named_by_file_or_benchmark_and_the_last_row_of_a_run_counts(table, tmp_path, put_run):
    assert load_records("") is None and load_records(" , ") is None
    assert len(load_records("livec")) == len(read_records(records_path("livec")))
    for name, plcc in (("old", 0.5), ("new", 0.7)):
        put_run(tmp_path / name, table, 0, plcc=plcc)
        update_records(tmp_path / f"{name}.csv", tmp_path / name, table)
    wanted = Recipe.for_benchmark("livec").identity(table, make_split(table, 0))
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    for names, plcc in ((f"{old}, {new}", 0.7), (f"{new},{old}", 0.5), (f"{old},{new},livec", 0.7)):
        assert find_record(load_records(names), wanted, 0)["plcc"] == pytest.approx(plcc, abs=1e-4)
    found = describe_records("old", load_records(str(old)), table)
    assert found == "livec: 1 of 1 run in the records of old used this data set"
    found = describe_records("demo", load_records("demo"), table)
    assert found.startswith("livec: 0 of ") and "used this data set; all are ignored: name records" in found
    assert describe_records("", None, table) == ""


def test_unknown_names_and_other_tables_are_refused(file):
    with pytest.raises(InputError, match="unknown benchmark or table of records 'livc': did you mean 'livec'"):
        load_records("livc")
    with pytest.raises(InputError, match="nowhere.csv does not exist"):
        load_records("livec, nowhere.csv")
    file.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is not a table of records, it lacks"):
        read_records(file)


def test_recorded_predictions_find_their_images_in_another_layout_of_the_folder(tmp_path, monkeypatch):
    """The two layouts sort their images by path in different orders; hashes use the names only."""

    def half(table, index):  # because a fifth of two contents is none
        return make_split(table, index, test=0.5)

    monkeypatch.setattr(records, "make_split", half)
    folders = [write_csiq(tmp_path / "a"), write_csiq(tmp_path / "b", flat="dst_imgs_all")]
    official, flat = (load_benchmark("csiq", folder) for folder in folders)
    order = [[image.rpartition("/")[2] for image in table["image"]] for table in (official, flat)]
    assert order[0] != order[1] and sorted(order[0]) == sorted(order[1])
    split, recipe = half(official, 0), Recipe.for_benchmark("csiq")
    test = official.iloc[split.test]
    folder, best = run_folder(tmp_path / "runs", "csiq", "lmcl", 0), dict(plcc=1.0, srcc=1.0)
    write_results(folder, test[["image", "mos"]].assign(pred=test["mos"]))
    scores = best | dict(krcc=1.0, rmse=0.0, plcc_logistic=1.0, n=len(test), test_best_optimistic=best)
    record = recipe.identity(official, split) | dict(split_index=0, seconds=1.0, device="cpu", metrics=scores)
    write_run(folder, record, dict(commit="c" * 40, dirty=False))
    update_records(tmp_path / "records.csv", tmp_path / "runs", official)
    known = read_records(tmp_path / "records.csv")
    for table in (official, flat):
        found = RunSet(table, recipe, tmp_path / "nowhere", known).predictions([0])
        assert len(found) == len(test) and found["pred"].tolist() == pytest.approx(found["mos"].tolist(), rel=1e-5)
        assert found["image"].tolist() == table["image"].iloc[half(table, 0).test].tolist()


@pytest.mark.parametrize("damage", [lambda text: text[:-1], lambda text: json.dumps(json.loads(text)[::-1])])
def test_damaged_predictions_are_named(missing, known, damage):
    known["predictions"] = known["predictions"].map(damage)
    with pytest.raises(InputError, match="recorded predictions of lmcl, split 0, are damaged"):
        missing.predictions([0])


def test_runs_without_recorded_predictions_have_no_interval(missing, known):
    known["predictions"], known["seconds"] = "", np.nan
    assert len(missing.predictions([0])) == 0
    row = tables.by_split(missing, [0]).iloc[0]
    assert row["plcc"] == pytest.approx(0.8, abs=1e-4) and np.isnan(row["plcc_low"]) and np.isnan(row["seconds"])


def test_a_run_folder_takes_precedence_over_records(table, file, tmp_path, put_run):
    put_run(tmp_path / "old", table, 0, plcc=0.5)
    update_records(file, tmp_path / "old", table)
    put_run(tmp_path / "new", table, 0, plcc=0.9)
    for where, plcc in (("new", 0.9), ("old", 0.5), ("nowhere", 0.5)):
        run_set = RunSet(table, Recipe.for_benchmark("livec"), tmp_path / where, read_records(file))
        assert ablation.results({"lmcl": run_set}, [0])["plcc"].tolist() == pytest.approx([plcc], abs=1e-4)


def test_records_of_other_recipes_splits_and_data_are_not_used(table, known):
    other = table.assign(mos=table["mos"] + 1)
    other.attrs = table.attrs

    def found(table, recipe, index):
        return find_record(known, recipe.identity(table, make_split(table, index)), index)

    recipe = Recipe.for_benchmark("livec")
    assert found(table, recipe, 0)["metrics"]["plcc"] == pytest.approx(0.8, abs=1e-4)
    assert found(table, Recipe.for_benchmark("livec", lr=1e-3), 0) is None
    assert found(table, recipe, 1) is None and found(other, recipe, 0) is None


def test_rows_stay_and_a_repeated_run_replaces_its_row(table, file, tmp_path, put_run):
    put_run(tmp_path / "first", table, 0, plcc=0.5)
    put_run(tmp_path / "first", table, 1, "quality", plcc=0.6)
    put_run(tmp_path / "second", table, 0, plcc=0.7)
    replaced = {where: update_records(file, tmp_path / where, table)[1] for where in ("first", "second", "nowhere")}
    assert [len(rows) for rows in replaced.values()] == [0, 1, 0]
    assert replaced["second"]["plcc"].tolist() == pytest.approx([0.5], abs=1e-4)
    rows = read_records(file)
    assert rows[["name", "split"]].values.tolist() == [["lmcl", 0], ["quality", 1]]
    assert rows["plcc"].tolist() == pytest.approx([0.7, 0.6], abs=1e-4)


def test_a_run_that_cannot_be_recorded_is_named_and_validation_runs_are_left_out(table, file, tmp_path, put_run):
    put_run(tmp_path / "runs", table, 0)
    folder = run_folder(tmp_path / "runs", "livec", "lmcl", 0)
    write_run(folder, json.loads((folder / "run.json").read_text()) | dict(data_hash="other"))
    with pytest.raises(InputError, match=r"split-00 cannot be recorded .*move it out"):
        update_records(file, tmp_path / "runs", table)
    folder.rename(folder.parent / "split-00-val")
    assert update_records(file, tmp_path / "runs", table)[0].empty and not file.exists()


def test_the_command_adds_the_runs_of_a_folder(table, tmp_path, put_run, monkeypatch, capsys):
    put_run(tmp_path / "runs", table, 0)
    monkeypatch.setattr(records, "load_benchmark", lambda name, root: table)
    monkeypatch.setattr(records, "records_path", lambda benchmark: tmp_path / f"{benchmark}.csv")
    arguments = ["livec", "root", str(tmp_path / "runs")]
    for _ in range(2):
        main(arguments)
    added, again, replaced = capsys.readouterr().out.splitlines()
    assert added.endswith("livec.csv: 1 row, 1 added or replaced") and again == added
    assert replaced == "replaced: lmcl, split 0: PLCC 0.8000 (32-true), was 0.8000 (32-true)"
    main([*arguments, str(tmp_path / "again.csv")])
    assert len(read_records(tmp_path / "again.csv")) == 1


def check_metrics(row, mos, pred):
    """The metrics of a record are those of its predictions."""
    again = metrics(pred=pred, mos=mos)
    for name in ("plcc", "srcc", "krcc", "rmse"):
        assert row[name] == pytest.approx(again[name], rel=1e-3)


@pytest.mark.parametrize("benchmark", ["livec", "demo"])
def test_the_records_of_the_project_are_unique_and_of_the_present_presets(benchmark):
    known = read_records(records_path(benchmark))
    assert not known.duplicated(records.KEY).any() and known["commit"].str.fullmatch("[0-9a-f]{40}").all()
    for row in known.to_dict("records"):
        assert Recipe.for_benchmark(benchmark, row["name"]).hash == row["recipe_hash"], "the preset has changed"


def test_the_records_of_livec_agree_with_their_predictions():
    known, scores = read_records(records_path("livec")), pd.read_csv(records_path("livec").parent / "03_scores.csv")
    method = known[known["name"] == "lmcl"].set_index("split")
    assert set(method.index) >= set(scores["split"]) and method["predictions"].ne("").all()
    for index, part in scores.groupby("split"):
        assert json.loads(method.loc[index, "predictions"]) == pytest.approx(part["pred"].tolist(), abs=1e-3)
        check_metrics(method.loc[index], part["mos"], part["pred"])


@pytest.mark.slow
def test_the_records_of_the_demo_agree_with_their_predictions():
    """Every variant on the splits of notebook 05; labels of the demo may be rounded differently on this machine."""
    known, table = read_records(records_path("demo")), load_benchmark("demo")
    assert set(zip(known["name"], known["split"])) == {(name, n) for name in variants_of("demo") for n in (0, 1)}
    for row in known.to_dict("records"):
        predictions = recorded_predictions(row, table, row["split"])
        check_metrics(row, predictions["mos"], predictions["pred"])


def test_the_tables_of_livec_agree_with_its_records():
    folder = records_path("livec").parent
    known = read_records(folder / "records.csv")
    both = pd.read_csv(folder / "05_results.csv").merge(
        known, left_on=["recipe", "split"], right_on=["name", "split"], suffixes=("", "_recorded"), how="left"
    )
    for name in ("plcc", "srcc", "rmse", "commit"):
        assert (both[name] == both[f"{name}_recorded"]).all()
    method = pd.read_csv(folder / "03_results.csv").merge(known[known["name"] == "lmcl"], on="split")
    assert (method["plcc_best_epoch_optimistic"] == method["plcc_best"]).all() and len(method)
    assert (method["srcc_best_epoch_optimistic"] == method["srcc_best"]).all()
