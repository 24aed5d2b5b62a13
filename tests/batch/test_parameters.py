"""Parameters of notebooks: names and types are checked against the parameters cell."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from lmcl_core import InputError
from lmcl_core.batch import check_parameters
from lmcl_core.batch.parameters import parameter_kinds

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
CELL = """name = "é # demo"  # str: of the benchmark
split = 0  # int or str: index, or "official"
gap = 1.0  # float: distance
overwrite = False  # bool: run again
count = 3
anything = None"""


@pytest.fixture
def notebook(tmp_path) -> Path:
    cell = nbformat.v4.new_code_cell(CELL, metadata=dict(tags=["parameters"]))
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell]), path)
    return path


def test_types_come_from_the_comments_and_else_from_the_defaults(notebook):
    kinds = dict(name="str", split="int or str", gap="float", overwrite="bool", count="int", anything="")
    assert parameter_kinds(notebook) == kinds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_states_known_types_and_its_defaults_have_them(path):
    assert {part for kind in parameter_kinds(path).values() for part in kind.split(" or ")} <= {
        *("str", "int", "float", "bool")
    }
    source = next(c.source for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", []))
    defaults: dict = {}
    exec(source, defaults)
    check_parameters(path.stem, {name: value for name, value in defaults.items() if name != "__builtins__"})


def test_an_unknown_name_is_refused_with_the_closest_known_one(notebook):
    with pytest.raises(InputError, match="unknown parameter of a.ipynb 'spilt': did you mean 'split'"):
        check_parameters(notebook, {"spilt": 1})


@pytest.mark.parametrize(
    "name, values",
    [
        ("name", [3, None]),
        ("split", [0.5, True, None]),
        ("gap", ["1", True]),
        ("overwrite", ["false", 0]),
        ("count", ["0", 0.5, True]),
    ],
)
def test_a_value_of_another_type_is_refused(notebook, name, values):
    for value in values:
        with pytest.raises(InputError, match=f"parameter {name} of a.ipynb is {value!r} of type .*: it must be"):
            check_parameters(notebook, {name: value})


def test_good_values_pass(notebook):
    check_parameters(notebook, dict(name="", split="official", gap=2, overwrite=True, count=0, anything=[1]))
    check_parameters(notebook, dict(split=3))


def test_a_running_notebook_passes_all_its_variables_and_papermill_s_cell_is_checked_for_unknown_names(notebook):
    variables = dict(In=["", CELL, '# Parameters\nsplit = "official"\n'], split="official", path=Path(), other=1)
    check_parameters(notebook, variables)
    with pytest.raises(InputError, match="'overwrite'"):
        check_parameters(notebook, dict(variables, In=["", CELL, "# Parameters\noverwirte = True\n"], overwirte=True))
    with pytest.raises(InputError, match="parameter overwrite .*'false'.*write True or False"):
        check_parameters(notebook, dict(variables, overwrite="false"))
