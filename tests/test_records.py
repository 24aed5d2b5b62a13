"""Recorded results stand in for runs that are not there, and for no others."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from lmcl_core import InputError, Recipe, ablation, load_benchmark, make_split, metrics, records, runs, tables
from lmcl_core.recipe import variants_of
from lmcl_core.records import choose, main, read_records, recall, told, update_records

from layouts import write_csiq, write_results


@pytest.fixture
def table(livec):
    """The tiny benchmark twice over, so that a test part has enough images."""
    once = load_benchmark("livec", livec)
    names = {
        column: once[column].str.replace(r"(\w+\.\w+)$", r"again-\1", regex=True) for column in ("image", "content")
    }
    table = pd.concat([once, once.assign(**names, mos=once["mos"] + 1)], ignore_index=True)
    table.attrs = once.attrs
    for image, copied in zip(once["image"], names["image"]):
        shutil.copy(livec / image, livec / copied)
    return table


@pytest.fixture
def file(tmp_path):
    return tmp_path / "records.csv"


def correlated(mos: pd.Series, plcc: float) -> list[float]:
    """Predictions whose PLCC with opinion is what is wanted; of two pictures it cannot be."""
    if len(mos) < 3:
        return mos.tolist()
    wave = np.sin(np.arange(len(mos)))
    both = np.column_stack([np.ones(len(mos)), mos, wave])
    _, along, across = np.linalg.qr(both)[0].T
    sign = np.sign(along @ mos.to_numpy())
    return (50 + 20 * (sign * plcc * along + np.sqrt(1 - plcc**2) * across)).round(4).tolist()


def put_run(where, table, index: int, name: str = "lmcl", plcc: float = 0.8, **changes) -> list[float]:
    """A finished run; returns its predictions in the order of the test part, which its file has the other way round."""
    split, recipe = make_split(table, index), Recipe.for_benchmark("livec", name, **changes)
    test = table.iloc[split.test]
    pred = correlated(test["mos"], plcc)
    folder = runs.run_folder(where, "livec", name, index)
    write_results(folder, pd.DataFrame(dict(image=test["image"], mos=test["mos"], pred=pred))[::-1])
    scores = dict(plcc=plcc, srcc=plcc - 0.01, krcc=0.6, rmse=9.0, plcc_logistic=plcc + 0.01, n=len(test))
    record = runs.identity(table, split, recipe) | dict(
        split_index=index, seconds=60.5, device="cpu", precision="32-true", commit="c" * 40, dirty=False
    )
    record["metrics"] = scores | dict(test_best_optimistic=dict(plcc=plcc + 0.02, srcc=plcc))
    (folder / "run.json").write_text(json.dumps(record))
    return pred


def test_what_was_recorded_comes_back_when_the_run_is_gone(table, file, tmp_path):
    pred = put_run(tmp_path / "runs", table, 3)
    found, replaced = update_records(file, tmp_path / "runs", table)
    assert len(found) == 1 and replaced.empty
    recipe, known, nowhere = Recipe.for_benchmark("livec"), read_records(file), tmp_path / "nowhere"
    assert tables.finished_splits(table, recipe, nowhere, range(5)) == []
    assert tables.finished_splits(table, recipe, nowhere, range(5), known) == [3]
    seen = tables.read_predictions(table, recipe, nowhere, [3], known)
    assert (
        seen["pred"].tolist() == pred and seen["image"].tolist() == table["image"][make_split(table, 3).test].tolist()
    )
    row = tables.by_split(table, recipe, nowhere, [3], known).iloc[0]
    there = tables.by_split(table, recipe, tmp_path / "runs", [3]).iloc[0]
    pd.testing.assert_series_equal(row, there)
    kept = known.iloc[0]
    assert (kept["commit"], kept["device"], kept["precision"]) == ("c" * 40, "cpu", "32-true")


def test_records_are_named_by_file_or_benchmark_and_the_last_of_a_run_counts(table, file, tmp_path):
    assert choose("") is None and choose(" , ") is None
    for name in ("livc", "LIVEC", "live-c"):
        with pytest.raises(InputError, match=f"unknown benchmark or table of records '{name}': did you mean 'livec'"):
            choose(name)
    with pytest.raises(InputError, match="old.csv is not there"):
        choose("old.csv")
    assert len(choose("livec")) == len(read_records(records.committed("livec")))
    for name, plcc in (("old", 0.5), ("new", 0.7)):
        put_run(tmp_path / name, table, 0, plcc=plcc)
        update_records(tmp_path / f"{name}.csv", tmp_path / name, table)
    wanted = runs.identity(table, make_split(table, 0), Recipe.for_benchmark("livec"))
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    for names, plcc in ((f"{old}, {new}", 0.7), (f"{new},{old}", 0.5), (f"{old},{new},livec", 0.7)):
        assert recall(choose(names), wanted, 0)["plcc"] == plcc
    assert told("old", choose(str(old)), table) == "records of old: 1 of 1 run are of this data"
    assert told("livec", choose("livec"), table).startswith("records of livec: 0 of ") and told("", None, table) == ""
    with pytest.raises(InputError, match="nowhere.csv is not there"):
        choose("livec, nowhere.csv")


def test_recorded_predictions_find_their_pictures_in_another_layout_of_the_folder(tmp_path, monkeypatch):
    """The two sort their pictures by path, in different orders; hashes see names alone."""
    for module in (records, tables):  # of two contents a fifth is none
        monkeypatch.setattr(module, "make_split", lambda table, index: make_split(table, index, test=0.5))
    folders = [write_csiq(tmp_path / "a"), write_csiq(tmp_path / "b", flat="dst_imgs_all")]
    official, flat = (load_benchmark("csiq", folder) for folder in folders)
    order = [[image.rpartition("/")[2] for image in table["image"]] for table in (official, flat)]
    assert order[0] != order[1] and sorted(order[0]) == sorted(order[1])
    split, recipe = records.make_split(official, 0), Recipe.for_benchmark("csiq")
    test = official.iloc[split.test]
    folder = runs.run_folder(tmp_path / "runs", "csiq", "lmcl", 0)
    write_results(folder, test[["image", "mos"]].assign(pred=test["mos"]))
    best = dict(plcc=1.0, srcc=1.0)
    scores = best | dict(krcc=1.0, rmse=0.0, plcc_logistic=1.0, n=len(test), test_best_optimistic=best)
    record = runs.identity(official, split, recipe) | dict(split_index=0, seconds=1.0, device="cpu", commit="c" * 40)
    (folder / "run.json").write_text(json.dumps(record | dict(dirty=False, metrics=scores)))
    update_records(tmp_path / "records.csv", tmp_path / "runs", official)
    known = read_records(tmp_path / "records.csv")
    for table in (official, flat):
        found = tables.read_predictions(table, recipe, tmp_path / "nowhere", [0], known)
        assert len(found) == len(test) and found["pred"].tolist() == pytest.approx(found["mos"].tolist(), rel=1e-5)
        assert found["image"].tolist() == table["image"].iloc[records.make_split(table, 0).test].tolist()


def test_predictions_in_another_order_are_not_taken_for_those_of_the_pictures(table, file, tmp_path):
    put_run(tmp_path / "runs", table, 0)
    update_records(file, tmp_path / "runs", table)
    record = recall(read_records(file), runs.identity(table, make_split(table, 0), Recipe.for_benchmark("livec")), 0)
    assert len(records.predictions(record, table, 0)) == 5
    turned = dict(record, predictions=json.dumps(json.loads(record["predictions"])[::-1]))
    with pytest.raises(InputError, match="recorded predictions of lmcl, split 0, are damaged .their PLCC is"):
        records.predictions(turned, table, 0)


def test_a_run_that_is_there_comes_before_a_recorded_one(table, file, tmp_path):
    put_run(tmp_path / "old", table, 0, plcc=0.5)
    update_records(file, tmp_path / "old", table)
    put_run(tmp_path / "new", table, 0, plcc=0.9)
    recipes = {"lmcl": Recipe.for_benchmark("livec")}
    for where, plcc in (("new", 0.9), ("old", 0.5), ("nowhere", 0.5)):
        found = ablation.results(table, recipes, tmp_path / where, [0], read_records(file))
        assert found["plcc"].tolist() == [plcc]


def test_other_recipes_splits_and_data_are_not_taken_for_it(table, file, tmp_path):
    put_run(tmp_path / "runs", table, 0)
    update_records(file, tmp_path / "runs", table)
    known, recipe = read_records(file), Recipe.for_benchmark("livec")
    other = table.assign(mos=table["mos"] + 1)
    other.attrs = table.attrs

    def found(table, recipe, index):
        return recall(known, runs.identity(table, make_split(table, index), recipe), index)

    assert found(table, recipe, 0)["metrics"]["plcc"] == 0.8
    assert found(table, Recipe.for_benchmark("livec", lr=1e-3), 0) is None
    assert found(table, recipe, 1) is None and found(other, recipe, 0) is None


def test_rows_stay_and_a_run_made_again_replaces_its_own(table, file, tmp_path):
    put_run(tmp_path / "first", table, 0, plcc=0.5)
    put_run(tmp_path / "first", table, 1, "quality", plcc=0.6)
    put_run(tmp_path / "second", table, 0, plcc=0.7)
    told = {where: update_records(file, tmp_path / where, table)[1] for where in ("first", "second", "nowhere")}
    assert told["first"].empty and told["nowhere"].empty and told["second"]["plcc"].tolist() == [0.5]
    assert read_records(file)[["name", "split", "plcc"]].values.tolist() == [["lmcl", 0, 0.7], ["quality", 1, 0.6]]


@pytest.mark.parametrize("place", ["split-00-val", "split-official"])
def test_validation_and_official_runs_are_not_recorded(table, file, tmp_path, place):
    put_run(tmp_path / "runs", table, 0)
    folder = tmp_path / "runs" / "livec" / "lmcl"
    (folder / "split-00").rename(folder / place)
    assert update_records(file, tmp_path / "runs", table)[0].empty and not file.exists()


def cut(folder):
    (folder / "predictions.csv").write_text("")


def without_metrics(folder):
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "metrics": {"plcc": 0.5}}))


def of_another_version(folder):
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "recipe": {**record["recipe"], "gone": 1}}))


@pytest.mark.parametrize("spoil", [cut, without_metrics, of_another_version])
def test_a_run_that_cannot_be_recorded_is_named(table, file, tmp_path, spoil):
    put_run(tmp_path / "runs", table, 0)
    spoil(tmp_path / "runs" / "livec" / "lmcl" / "split-00")
    with pytest.raises(InputError, match=r"split-00 cannot be recorded .*move it out"):
        update_records(file, tmp_path / "runs", table)
    assert not file.exists()


@pytest.mark.parametrize("damaged", ["[1.0, 2.0", "[1.0]"])
def test_damaged_predictions_are_named(table, file, tmp_path, damaged):
    put_run(tmp_path / "runs", table, 0)
    update_records(file, tmp_path / "runs", table)
    known = read_records(file).assign(predictions=damaged)
    with pytest.raises(InputError, match="recorded predictions of lmcl, split 0, are damaged"):
        tables.read_predictions(table, Recipe.for_benchmark("livec"), tmp_path / "nowhere", [0], known)


def test_a_split_without_a_run_is_named(table, tmp_path):
    with pytest.raises(InputError, match="no finished run: train it, or leave split 0 out"):
        tables.read_predictions(table, Recipe.for_benchmark("livec"), tmp_path, [0])


def test_a_run_of_other_data_is_refused(table, file, tmp_path):
    put_run(tmp_path / "runs", table, 0)
    other = table.assign(mos=table["mos"] + 1)
    other.attrs = table.attrs
    with pytest.raises(InputError, match="of other data, or of another version"):
        update_records(file, tmp_path / "runs", other)
    assert not file.exists()


def test_predictions_that_were_not_recorded_leave_their_cells_empty(table, file, tmp_path):
    put_run(tmp_path / "runs", table, 0)
    update_records(file, tmp_path / "runs", table)
    rows = pd.read_csv(file).assign(predictions=np.nan, seconds=np.nan)
    rows.to_csv(file, index=False)
    recipe, known = Recipe.for_benchmark("livec"), read_records(file)
    assert len(tables.read_predictions(table, recipe, tmp_path / "nowhere", [0], known)) == 0
    row = tables.by_split(table, recipe, tmp_path / "nowhere", [0], known).iloc[0]
    assert row["plcc"] == 0.8 and np.isnan(row["plcc_low"]) and np.isnan(row["seconds"])


def test_a_missing_or_other_table_is_named(file):
    with pytest.raises(InputError, match="records.csv is not there"):
        read_records(file)
    file.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no table of records, it lacks"):
        read_records(file)


def test_the_command_adds_the_runs_of_a_folder(livec, tmp_path, monkeypatch, capsys):
    put_run(tmp_path / "runs", load_benchmark("livec", livec), 0)
    monkeypatch.setattr(records, "committed", lambda benchmark: tmp_path / f"{benchmark}.csv")
    main(["livec", str(livec), str(tmp_path / "runs")])
    assert "livec.csv: 1 row, 1 read" in capsys.readouterr().out
    main(["livec", str(livec), str(tmp_path / "runs")])
    assert "replaced: lmcl, split 0: PLCC 0.8000 (32-true), was 0.8000 (32-true)" in capsys.readouterr().out
    main(["livec", str(livec), str(tmp_path / "runs"), str(tmp_path / "again.csv")])
    assert "again.csv: 1 row, 1 read" in capsys.readouterr().out and len(read_records(tmp_path / "again.csv")) == 1
    for arguments, message in (
        (["livec"], "use: python"),
        (["live", str(livec)], "records: missing_folder"),
        (["livc", str(livec)], "did you mean 'livec'?"),
        (["livec", str(livec), str(tmp_path / "runs"), str(tmp_path)], "is a folder: name a CSV file"),
        (["livec", str(livec), str(tmp_path / "nowhere")], "no finished run of livec"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_records_of_livec_are_whole_and_their_metrics_are_those_of_their_predictions():
    known = read_records(records.committed("livec"))
    assert not known.duplicated(records.KEY).any() and known["commit"].str.fullmatch("[0-9a-f]{40}").all()
    for row in known.to_dict("records"):
        assert Recipe.from_dict(json.loads(row["recipe"])).hash == row["recipe_hash"]
        assert Recipe.for_benchmark("livec", row["name"]).hash == row["recipe_hash"], "the preset has moved"
    scores = pd.read_csv(records.committed("livec").parent / "03_scores.csv")
    method = known[known["name"] == "lmcl"].set_index("split")
    assert set(method.index) >= set(scores["split"]) and method["predictions"].ne("").all()
    for index, part in scores.groupby("split"):
        assert json.loads(method.loc[index, "predictions"]) == pytest.approx(part["pred"].tolist(), abs=1e-3)
        again = metrics(pred=part["pred"], mos=part["mos"])
        for name in ("plcc", "srcc", "krcc", "rmse"):
            assert method.loc[index, name] == pytest.approx(again[name], rel=1e-3)


def test_the_records_of_the_demo_are_whole_and_their_metrics_are_those_of_their_predictions():
    """Every variant on the splits that notebook 05 shows; on this machine's demo, whose labels may round otherwise."""
    known, table = read_records(records.committed("demo")), load_benchmark("demo")
    assert not known.duplicated(records.KEY).any() and known["commit"].str.fullmatch("[0-9a-f]{40}").all()
    assert set(zip(known["name"], known["split"])) == {(name, n) for name in variants_of("demo") for n in (0, 1)}
    for row in known.to_dict("records"):
        assert Recipe.for_benchmark("demo", row["name"]).hash == row["recipe_hash"], "the preset has moved"
        seen = records.predictions(row, table, row["split"])
        again = metrics(pred=seen["pred"], mos=seen["mos"])
        for name in ("plcc", "srcc", "krcc", "rmse"):
            assert row[name] == pytest.approx(again[name], rel=1e-3)


def test_the_records_of_livec_are_what_its_tables_were_made_from():
    folder = records.committed("livec").parent
    known = read_records(folder / "records.csv")
    both = pd.read_csv(folder / "05_results.csv").merge(
        known, left_on=["recipe", "split"], right_on=["name", "split"], suffixes=("", "_recorded"), how="left"
    )
    for name in ("plcc", "srcc", "rmse", "commit"):
        assert (both[name] == both[f"{name}_recorded"]).all()
    method = pd.read_csv(folder / "03_results.csv").merge(known[known["name"] == "lmcl"], on="split")
    assert (method["plcc_best_epoch_optimistic"] == method["plcc_best"]).all() and len(method)
    assert (method["srcc_best_epoch_optimistic"] == method["srcc_best"]).all()
