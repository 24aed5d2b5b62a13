"""One notebook run headless: a failure is named, epoch lines are passed on, a finished one is recognised."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lmcl_core import InputError, Recipe, RunError, load_benchmark
from lmcl_core.batch import notebook as module
from lmcl_core.batch.notebook import Job, is_finished, mark_finished, run_notebook

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def notebooks(tmp_path, monkeypatch) -> Path:
    """A project of which ``notebooks/`` holds raises.ipynb."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "raises.ipynb").write_text((FIXTURES / "raises.ipynb").read_text())
    monkeypatch.setattr(module, "project_folder", lambda: tmp_path)
    return folder


@pytest.mark.slow
def test_a_failing_notebook_and_cell_are_named_and_its_copy_is_kept(notebooks, tmp_path):
    job = Job("raises.ipynb", tmp_path / "out {number} {" / "raises.ipynb", {"number": 0})
    with pytest.raises(RunError, match=r"raises.ipynb failed in cell In \[3\], '1 / number' \(ZeroDivisionError: div"):
        run_notebook(job)
    assert job.output.is_file()


def test_wrong_parameters_are_refused_before_the_notebook_runs(notebooks, tmp_path):
    job = Job("raises.ipynb", tmp_path / "out.ipynb", {"numbr": 0})
    with pytest.raises(InputError, match="unknown parameter of raises.ipynb 'numbr': did you mean 'number'"):
        run_notebook(job)
    assert not job.output.exists()


def test_a_notebook_shows_our_errors_in_one_line():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shown: list[str] = []
    shell._showtraceback = lambda kind, value, lines: shown.extend(lines)
    shell.run_cell("from lmcl_core import InputError\nraise InputError('no such folder: name another')")
    assert shown == ["InputError: no such folder: name another"]


def test_a_finished_notebook_is_recognised_until_one_of_its_inputs_or_figures_changes(notebooks, tmp_path, livec):
    """Inputs are source, parameters, data, runs and files; device and overwrite do not change results."""
    tables = {"livec": load_benchmark("livec", livec)}
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    record, ledger, figure = runs / "livec/lmcl/split-00/run.json", tmp_path / "l.csv", figures / "livec/01_a.png"
    for path in (record, runs / "livec/lmcl/split-00-val/run.json", ledger, figure, tmp_path / "out.ipynb"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    parameters = dict(benchmark="livec", runs_dir=str(runs), figures_dir=str(figures), device="cpu")
    job = Job("raises.ipynb", tmp_path / "out.ipynb", parameters, (), "01_*", ("lmcl",), (ledger,))
    assert not is_finished(job, tables)
    mark_finished(job, tables)
    other = dict(parameters, device="cuda", overwrite=True)
    assert is_finished(job, tables) and is_finished(dataclasses.replace(job, parameters=other), tables)
    (runs / "livec/lmcl/split-00-val/run.json").write_text("changed")
    assert is_finished(job, tables)
    assert not is_finished(dataclasses.replace(job, parameters=dict(parameters, split=1)), tables)
    changed = dataclasses.replace(job, parameters=dict(parameters, recipe_changes='{"lr": 0.1}'))
    mine = runs / "livec" / Recipe.for_benchmark("livec", lr=0.1).name / "split-00" / "run.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    assert module._run_records(job, tables) == [record] and module._run_records(changed, tables) == [mine]
    changed = tables["livec"].assign(mos=1.0)
    changed.attrs = tables["livec"].attrs
    assert not is_finished(job, {"livec": changed})
    for path in (record, ledger, figure, notebooks / "raises.ipynb"):
        before = path.read_text()
        path.write_text(before.replace("1 / number", "2 / number") if path.suffix == ".ipynb" else "changed")
        assert not is_finished(job, tables), path
        path.write_text(before)
    assert is_finished(job, tables)
    job.output.unlink()
    assert not is_finished(job, tables)
