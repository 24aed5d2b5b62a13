"""The search ledger: validation runs only, each once, with the command that makes it again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

from lmcl_core import InputError, Recipe
from lmcl_core.arguments import parse_changes
from lmcl_core import ledger
from lmcl_core.ledger import command, compare, main, read_ledger, update_ledger


def put_run(runs: Path, name: str, index: str = "00-val", plcc: float = 0.8, **changes) -> Recipe:
    recipe = Recipe.for_benchmark("livec", **{"name": name, **changes})
    scores = dict(plcc=plcc, srcc=plcc - 0.02)
    record = dict(
        benchmark="livec",
        recipe_hash=recipe.hash,
        data_hash="d" * 12,
        split_hash=f"split of {index}",
        recipe=recipe.to_dict(),
        split_index=index,
        seconds=60.5,
        device="cpu",
        commit="c" * 40,
        dirty=name == "b",
        metrics=dict(**scores, student=scores, teacher=dict(plcc=plcc - 0.01, srcc=plcc - 0.03)),
    )
    folder = runs / "livec" / name / f"split-{index}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    return recipe


def test_validation_runs_and_no_others_are_in_it(tmp_path):
    put_run(tmp_path / "runs", "a")
    put_run(tmp_path / "runs", "a", "01-val", plcc=0.9)
    put_run(tmp_path / "runs", "tested", "00")
    rows = update_ledger(tmp_path / "ledger.csv", tmp_path / "runs", "livec")
    assert rows[["name", "split", "plcc"]].values.tolist() == [["a", "00-val", 0.8], ["a", "01-val", 0.9]]
    assert rows[["plcc_student", "plcc_teacher", "seconds"]].iloc[0].tolist() == [0.8, pytest.approx(0.79), 60.5]


def test_a_run_stands_in_it_once_and_stays_when_its_folder_is_gone(tmp_path):
    put_run(tmp_path / "first", "a")
    once = update_ledger(tmp_path / "ledger.csv", tmp_path / "first", "livec")
    again = update_ledger(tmp_path / "ledger.csv", tmp_path / "first", "livec")
    assert again.equals(once)
    put_run(tmp_path / "second", "b", plcc=0.85, lr=1e-4)
    both = update_ledger(tmp_path / "ledger.csv", tmp_path / "second", "livec")
    assert both["name"].tolist() == ["b", "a"]
    assert both["commit"].tolist() == ["c" * 40 + " with changes", "c" * 40]
    assert read_ledger(tmp_path / "ledger.csv")["recipe"].tolist() == both["recipe"].tolist()


@pytest.mark.parametrize("name", ["two words", "1", "null", "it's"])
def test_the_command_makes_the_same_recipe_again(tmp_path, name):
    changed = dict(lr=1e-4, variant="v2", scales=(1.0, 2.0), freeze_batchnorm=False, view_size=112, stages=(3, 5))
    recipe = put_run(tmp_path / "runs", name, "03-val", **changed)
    rows = update_ledger(tmp_path / "ledger.csv", tmp_path / "runs", "livec")
    words = shlex.split(command(rows.iloc[0]))
    assert words[:7] == ["lmcl", "train", "--benchmark", "livec", "--data-root", "DIR", "--split"]
    assert words[7:9] == ["3", "--validation"]
    made = Recipe.for_benchmark("livec", **parse_changes(words[10::2]))
    assert words[9::2] == ["--set"] * (len(changed) + 1) and made == recipe
    assert compare(rows, name)["difference"].tolist() == [0]


def test_a_name_of_several_runs_of_one_split_is_no_baseline(tmp_path):
    put_run(tmp_path / "one", "a")
    put_run(tmp_path / "two", "a", lr=1e-3)
    for runs in ("one", "two"):
        rows = update_ledger(tmp_path / "ledger.csv", tmp_path / runs, "livec")
    assert len(rows) == 2
    with pytest.raises(InputError, match="'a' names several runs of one split"):
        compare(rows, "a")


def test_a_row_whose_recipe_is_of_another_version_stays_as_it_is(tmp_path):
    put_run(tmp_path / "runs", "a", lr=1e-3)
    update_ledger(tmp_path / "ledger.csv", tmp_path / "runs", "livec")
    text = (tmp_path / "ledger.csv").read_text().replace('""lr""', '""learning_rate""')
    (tmp_path / "ledger.csv").write_text(text)
    rows = update_ledger(tmp_path / "ledger.csv", tmp_path / "none", "livec")
    assert "lr=0.001" in rows["changes"][0]
    with pytest.raises(InputError, match="learning_rate"):
        command(rows.iloc[0])


def test_configurations_are_compared_on_the_splits_that_both_ran(tmp_path):
    put_run(tmp_path / "runs", "base", "00-val", plcc=0.80)
    put_run(tmp_path / "runs", "base", "01-val", plcc=0.90)
    put_run(tmp_path / "runs", "better", "00-val", plcc=0.82, lr=1e-4)
    put_run(tmp_path / "runs", "better", "01-val", plcc=0.93, lr=1e-4)
    put_run(tmp_path / "runs", "elsewhere", "02-val", plcc=0.99, lr=5e-4)
    rows = update_ledger(tmp_path / "ledger.csv", tmp_path / "runs", "livec")
    table = compare(rows, "base").set_index("name")
    assert table.index.tolist() == ["better", "base", "elsewhere"]
    assert table["difference"].tolist()[:2] == pytest.approx([0.025, 0.0])
    assert table["difference"].isna().tolist() == [False, False, True]
    with pytest.raises(InputError, match="no 'nothing' in the ledger: choose one of base, better, elsewhere"):
        compare(rows, "nothing")


def test_no_runs_and_no_file_make_an_empty_ledger(tmp_path):
    assert update_ledger(tmp_path / "ledger.csv", tmp_path, "livec").empty
    assert read_ledger(tmp_path / "ledger.csv").empty


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0", b"a,b\n1,2\n1,2,3,4\n"])
def test_a_damaged_file_is_no_ledger(tmp_path, content):
    (tmp_path / "ledger.csv").write_bytes(content)
    with pytest.raises(InputError, match="ledger.csv is no ledger"):
        update_ledger(tmp_path / "ledger.csv", tmp_path, "livec")
    assert (tmp_path / "ledger.csv").read_bytes() == content


def test_another_table_is_no_ledger(tmp_path):
    (tmp_path / "other.csv").write_text("image,mos\na.png,3\n")
    with pytest.raises(InputError, match="no ledger, it lacks benchmark"):
        read_ledger(tmp_path / "other.csv")


def test_the_command_adds_runs_to_the_ledger_of_the_project(tmp_path, monkeypatch, capsys):
    put_run(tmp_path / "runs", "a")
    monkeypatch.setattr(ledger, "committed", lambda: tmp_path / "figures" / "ledger.csv")
    main(["livec", str(tmp_path / "runs")])
    assert capsys.readouterr().out.endswith("ledger.csv: 1 row, 1 read\n")
    assert read_ledger(tmp_path / "figures" / "ledger.csv")["name"].tolist() == ["a"]


def test_a_benchmark_that_is_misspelt_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["livc"])
    assert stopped.value.code == 2 and "unknown benchmark 'livc': did you mean 'livec'?" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "committed", lambda: tmp_path / "ledger.csv")
    with pytest.raises(SystemExit) as stopped:
        main(["livec", str(tmp_path / "typo")])
    assert stopped.value.code == 2 and "holds no validation run of livec" in capsys.readouterr().err
    assert not (tmp_path / "ledger.csv").exists()


def test_a_damaged_record_is_named_and_not_passed_over(tmp_path):
    put_run(tmp_path / "runs", "a")
    (tmp_path / "runs" / "livec" / "a" / "split-00-val" / "run.json").write_text("{}")
    with pytest.raises(InputError, match="run.json lacks benchmark"):
        update_ledger(tmp_path / "ledger.csv", tmp_path / "runs", "livec")
    put_run(tmp_path / "torn", "a")
    path = tmp_path / "torn" / "livec" / "a" / "split-00-val" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(metrics=dict(plcc=0.8))))
    with pytest.raises(InputError, match="split-00-val: its metrics are damaged"):
        update_ledger(tmp_path / "ledger.csv", tmp_path / "torn", "livec")


def test_a_damaged_recipe_is_told_with_its_row(tmp_path):
    put_run(tmp_path / "runs", "a")
    rows = update_ledger(tmp_path / "ledger.csv", tmp_path / "runs", "livec")
    rows.assign(recipe="{").to_csv(tmp_path / "ledger.csv", index=False)
    with pytest.raises(InputError, match="the recipe of 'a', split 00-val, is damaged"):
        update_ledger(tmp_path / "ledger.csv", tmp_path / "none", "livec")


def test_copies_of_the_data_are_told_apart(tmp_path):
    put_run(tmp_path / "runs", "a")
    rows = update_ledger(tmp_path / "ledger.csv", tmp_path / "runs", "livec")
    both = pd.concat([rows.assign(name="b", recipe_hash="b"), rows, rows.assign(data_hash="another")])
    assert len(compare(both, "b")) == 3
    with pytest.raises(InputError, match="keep the rows of one benchmark, recipe and data"):
        compare(both, "a")


@pytest.mark.parametrize("arguments", [[], ["livec", "a", "b"]])
def test_wrong_use_of_the_command_is_told_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "ledger: use: python -m lmcl_core.ledger BENCHMARK [RUNS_DIR]\n"


def test_the_ledger_of_the_project_can_be_read_and_its_recipes_are_still_known():
    rows = read_ledger(ledger.committed())
    assert len(rows)
    for _, row in rows.iterrows():
        assert row["split"] in ("00-val", "01-val", "02-val")
        assert (
            Recipe.from_dict(json.loads(row["recipe"])).hash == row["recipe_hash"]
            and "with changes" not in row["commit"]
        )
        assert command(row).startswith("lmcl train --benchmark livec")
