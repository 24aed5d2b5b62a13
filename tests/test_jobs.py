"""One notebook run headless: its failures are named, its parameters are checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lmcl_core import InputError, RunError
from lmcl_core import jobs as module
from lmcl_core.jobs import Job, check_parameters, run_notebook

FIXTURES = Path(__file__).parent / "fixtures"


def test_a_failing_notebook_and_cell_are_named_and_its_copy_is_kept(tmp_path, monkeypatch):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    shutil.copy(FIXTURES / "raises.ipynb", notebooks / "raises.ipynb")
    monkeypatch.setattr(module, "project_folder", lambda: tmp_path)
    with pytest.raises(
        RunError, match=r"raises.ipynb failed in cell In \[3\], '1 / number' \(ZeroDivisionError: division"
    ):
        run_notebook(Job("raises.ipynb", tmp_path / "out" / "raises.ipynb", {"number": 0}))
    assert (tmp_path / "out" / "raises.ipynb").is_file()


def test_an_unknown_notebook_parameter_is_an_error(tmp_path):
    with pytest.raises(InputError, match="unknown parameter of raises.ipynb 'numbr': did you mean 'number'"):
        check_parameters(FIXTURES / "raises.ipynb", {"numbr": 1})


@pytest.mark.parametrize("value", ["0", 0.5, True, None])
def test_a_notebook_parameter_of_another_type_is_an_error(value):
    check_parameters(FIXTURES / "raises.ipynb", {"number": 2})
    with pytest.raises(InputError, match=f"parameter number is {value!r}, of type .*: int is wanted"):
        check_parameters(FIXTURES / "raises.ipynb", {"number": value})


def test_the_message_shows_a_line_that_says_what_the_cell_is_about():
    assert (
        module._telling_line("\n%matplotlib inline\nimport os\nfrom a import b\n\ntable = load()") == "table = load()"
    )
    assert module._telling_line("import os") == "import os"


def test_a_notebook_shows_our_errors_in_one_line():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shown: list[str] = []
    shell._showtraceback = lambda kind, value, lines: shown.extend(lines)
    shell.run_cell("from lmcl_core import InputError\nraise InputError('no such folder: name another')")
    assert shown == ["InputError: no such folder: name another"]
