"""Label files are found without case and read wherever their header stands; each fault names the place."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import cells, write_book
from scipy.io import savemat
from scipy.sparse import csr_array

from lmcl_core import InputError
from lmcl_core.data.faults import Fault, FaultError
from lmcl_core.data.labels import find, mat_column, mat_names, parts_of, read_columns, read_words


def fault_of(call, *args) -> Fault:
    with pytest.raises(FaultError) as caught:
        call(*args)
    return caught.value.faults[0]


def test_every_part_of_a_name_is_matched_without_case_but_an_exact_match_comes_first(tmp_path):
    (tmp_path / "Data").mkdir()
    for name in ("Scores.MAT", "A.csv", "a.csv"):
        (tmp_path / "Data" / name).write_text("")
    assert find(tmp_path, "data/scores.mat") == tmp_path / "Data" / "Scores.MAT"
    assert find(tmp_path, "data/other.mat") is None is find(tmp_path / "no", "data")
    assert find(tmp_path, "Data/a.csv").name == "a.csv" and find(tmp_path, "Data/A.csv").name == "A.csv"


@pytest.mark.parametrize(
    "text", ["name,mos\na,1\nb,2\n", "\ufeffNAME, Mos \na,1\n\nb, 2\n", "x,name,y,mos\n0,a,0,1\n0,b,0,2"]
)
def test_columns_of_a_csv_are_found_by_name(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    table = read_columns(tmp_path / "t.csv", ["name", "mos"])
    assert table.to_dict("list") == {"name": ["a", "b"], "mos": ["1", "2"]}
    (tmp_path / "t.csv").write_text("name,mos\na\nb,2\n")
    assert list(read_columns(tmp_path / "t.csv", ["name", "mos"])["mos"]) == ["", "2"]


def test_a_header_is_found_in_any_row_of_any_sheet_and_the_longest_table_is_read(tmp_path):
    path = tmp_path / "t.xlsx"
    part, whole = (
        [[None, "mos", "name"], [None, 1, "x"]],
        [["name", "mos"], [1600, 0.5], [None, None], ["b", 2.0], ["c", "#N/A"]],
    )
    write_book(path, read_me=[["scores"]], part=part, whole=[["title"], [None], *whole])
    assert read_columns(path, ["name", "mos"]).to_dict("list") == {"name": ["1600", "b", "c"], "mos": ["0.5", "2", ""]}


def test_missing_columns_are_named_with_the_columns_that_exist(tmp_path):
    (tmp_path / "t.csv").write_text("name,score\na,1\n")
    fault = fault_of(read_columns, tmp_path / "t.csv", ["name", "mos"])
    assert fault.kind == "bad_label_column" and fault.where.endswith("t.csv: mos") and "'score'" in fault.fix
    write_book(tmp_path / "t.xlsx", a=[["title"], ["name"]])
    assert fault_of(read_columns, tmp_path / "t.xlsx", ["name", "mos"]).where.endswith("t.xlsx: mos")


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_a_file_of_another_format_is_not_a_table(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\3\4\xff\xfe")
    fault = fault_of(read_columns, tmp_path / name, ["name"])
    assert fault.kind == "missing_label_file" and fault.where == str(tmp_path / name) and "again" in fault.fix


def test_a_spreadsheet_without_openpyxl_is_refused_with_the_command_that_installs_it(tmp_path, monkeypatch):
    write_book(tmp_path / "t.xlsx", a=[["name"], ["x"]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match="pip install openpyxl"):
        read_columns(tmp_path / "t.xlsx", ["name"])


@pytest.mark.parametrize(
    "text, kind, where",
    [
        ("", "missing_label_file", "t.txt"),
        ("1.5\n2.5\n", "bad_label_column", "t.txt: name"),
        ("1 a 3\n", "bad_label_column", "t.txt: column 3"),
        ("1.5 a.bmp\n2.5\n", "bad_label_row", "t.txt: line 2"),
    ],
)
def test_lines_with_the_wrong_number_of_words_are_named(tmp_path, text, kind, where):
    (tmp_path / "t.txt").write_bytes(b"1.5 a.bmp\r\n\r\n2.5  b.bmp\r\n")
    words = read_words(tmp_path / "t.txt", ["mos", "name"])
    assert words.to_dict("list") == {"mos": ["1.5", "2.5"], "name": ["a.bmp", "b.bmp"]}
    (tmp_path / "t.txt").write_text(text)
    fault = fault_of(read_words, tmp_path / "t.txt", ["mos", "name"])
    assert fault.kind == kind and fault.where == str(tmp_path / where)


def test_mat_variables_are_read_flat(tmp_path):
    path = tmp_path / "t.mat"
    sparse = csr_array(np.eye(3))
    savemat(path, {"mos": np.ones((1, 3)), "names": cells(["a", "b"]), "sparse": sparse, "structure": {"mos": 1.0}})
    assert mat_column(path, "mos").shape == (3,) and mat_names(path, "names") == ["a", "b"]
    for variable, reason in dict(dmos="not in the file", sparse="not a list", structure="not a list").items():
        fault = fault_of(mat_column, path, variable)
        assert fault.kind == "bad_label_column" and fault.where == f"{path}: {variable}" and reason in fault.fix
    path.write_bytes(b"x" * 300)
    assert fault_of(mat_column, path, "mos").kind == "missing_label_file"


def test_names_of_another_form_are_named_with_an_example():
    pattern, example = r"(i\d\d)_(\d)\.bmp", "i01_1.bmp"
    parts = parts_of(pd.Series(["I01_2.BMP", "i25_3.bmp"]), pattern, Path("t.txt"), example)
    assert parts.to_numpy().tolist() == [["I01", "2"], ["i25", "3"]]
    fault = fault_of(parts_of, pd.Series(["i01_1.bmp", "cat.bmp"]), pattern, Path("t.txt"), example)
    assert fault.kind == "bad_label_row" and "'cat.bmp'" in fault.where and "i01_1.bmp" in fault.fix
