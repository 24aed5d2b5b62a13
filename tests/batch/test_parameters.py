"""Parameters of notebooks: names and types are checked against the parameters cell."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from papermill import inspect_notebook

from lmcl_core import InputError
from lmcl_core.batch.parameters import check_parameters
from lmcl_core.batch.parameters import parameter_kinds

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
CELL = """name: str = "é # demo"  # of the benchmark
split: int or str = 0  # index, or "official"
gap: float = 1.0  # distance
overwrite: bool = False  # run again
changes: dict | str = {}
count = 3
anything = None"""


@pytest.fixture
def notebook(tmp_path) -> Path:
    cell = nbformat.v4.new_code_cell(CELL, metadata=dict(tags=["parameters"]))
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell]), path)
    return path


def test_types_come_from_the_annotations_and_else_from_the_defaults(notebook):
    kinds = dict(name="str", split="int or str", gap="float", overwrite="bool", changes="dict or str")
    kinds |= dict(count="int", anything="")
    assert parameter_kinds(notebook) == kinds


def test_papermill_s_help_shows_name_known_type_default_and_meaning_of_every_parameter():
    for path in NOTEBOOKS:
        shown, kinds = inspect_notebook(path), parameter_kinds(path)
        assert {name: one["inferred_type_name"] for name, one in shown.items()} == kinds
        assert {part for kind in kinds.values() for part in kind.split(" or ")} <= {
            "str",
            "int",
            "float",
            "bool",
            "dict",
        }
        assert all(one["default"] and one["help"] for one in shown.values())
        check_parameters(path.stem, {name: ast.literal_eval(one["default"]) for name, one in shown.items()})


def test_an_unknown_name_is_refused_with_the_closest_known_one(notebook):
    check_parameters(notebook, dict(name="", split="official", gap=2, overwrite=True, count=0, anything=[1]))
    check_parameters(notebook, dict(split=3, changes='{"epochs": 1}'))
    with pytest.raises(InputError, match="unknown parameter of a.ipynb 'spilt': did you mean 'split'"):
        check_parameters(notebook, {"spilt": 1})


def test_a_value_of_another_type_is_refused(notebook):
    wrong = dict(name=None, split=0.5, gap=True, overwrite=0, changes=["a"], count=np.int64(3))
    for name, value in wrong.items():
        shown = re.escape(repr(value))
        with pytest.raises(InputError, match=f"parameter {name} of a.ipynb is {shown} of type .*: it must be"):
            check_parameters(notebook, {name: value})


def test_a_running_notebook_passes_all_its_variables_and_papermill_s_cell_is_checked_for_unknown_names(notebook):
    variables = dict(In=["", CELL, '# Parameters\nsplit = "official"\n'], split="official", path=Path(), other=1)
    check_parameters(notebook, variables)
    with pytest.raises(InputError, match="'overwrite'"):
        check_parameters(notebook, dict(variables, In=["", CELL, "# Parameters\noverwirte = True\n"], overwirte=True))
    with pytest.raises(InputError, match="parameter overwrite .*'false'.*write True or False"):
        check_parameters(notebook, dict(variables, overwrite="false"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "option, message",
    [
        (["-p", "spilts", "3"], "InputError: unknown parameter of 01_data_preparation.ipynb 'spilts'"),
        (["-y", "{splits: three}"], "parameter splits of 01_data_preparation.ipynb is 'three' of type str"),
    ],
)
def test_the_last_line_of_papermill_s_output_is_the_error(tmp_path, option, message):
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS[0]), str(tmp_path / "out.ipynb"), *option]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and message in done.stderr.strip().splitlines()[-1]
