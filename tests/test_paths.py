"""Places come from the argument, then the environment, then the checkout; never from the working directory."""

from pathlib import Path

import pytest

from lmcl_core import InputError, paths

ROOT = Path(__file__).parent.parent


def test_an_argument_wins_over_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCL_RUNS", str(tmp_path / "b"))
    assert paths.runs_folder(tmp_path / "a") == tmp_path / "a"
    assert paths.runs_folder() == tmp_path / "b"


def test_the_checkout_is_the_default_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.delenv("LMCL_RUNS")
    monkeypatch.delenv("LMCL_FIGURES")
    monkeypatch.chdir(tmp_path)
    assert paths.runs_folder() == ROOT / "runs"
    assert paths.figures_folder("demo") == ROOT / "figures" / "demo"


def test_a_package_without_its_checkout_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "lmcl_core" / "paths.py"))
    with pytest.raises(InputError, match="work from a checkout"):
        paths.project_folder()


def test_paths_that_lead_nowhere_are_told(tmp_path, monkeypatch):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for named in (tmp_path / "one", "~nobody-of-this-name/runs", "a\0b"):
        with pytest.raises(InputError, match="cannot be followed as a path"):
            paths.runs_folder(named)
    monkeypatch.setenv("LMCL_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(InputError, match="~nobody-of-this-name/cache' cannot be followed"):
        paths.cache_folder()


def test_a_file_is_no_folder_of_runs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file: name a folder"):
        paths.runs_folder(tmp_path / "file")


@pytest.mark.parametrize("variable", ["LMCL_RUNS", "LMCL_FIGURES", "LMCL_CACHE"])
def test_a_variable_names_a_whole_path(variable, monkeypatch):
    """Notebooks and commands run in different folders."""
    folder = dict(
        LMCL_RUNS=paths.runs_folder, LMCL_FIGURES=lambda: paths.figures_folder(""), LMCL_CACHE=paths.cache_folder
    )
    monkeypatch.setenv(variable, "mine")
    with pytest.raises(InputError, match=f"{variable} is 'mine': name the whole path"):
        folder[variable]()
    monkeypatch.setenv(variable, "~/mine")
    assert folder[variable]() == Path.home() / "mine"


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path / "cache"))
    assert paths.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LMCL_CACHE")
    assert paths.cache_folder() == Path.home() / ".cache" / "lmcl"
