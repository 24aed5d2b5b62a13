"""Folders come from the argument, then the environment, then the checkout; never from the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcl_core import InputError
from lmcl_core.common import paths

ROOT = Path(__file__).parents[2]


def test_the_checkout_is_the_default_in_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("LMCL_RUNS")
    monkeypatch.delenv("LMCL_FIGURES")
    monkeypatch.delenv("LMCL_CACHE")
    monkeypatch.chdir(tmp_path)
    assert paths.runs_folder() == ROOT / "runs"
    assert paths.figures_folder("demo") == ROOT / "runs" / "figures" / "demo"
    assert paths.reference_folder("demo") == ROOT / "figures" / "demo"
    assert paths.cache_folder() == Path.home() / ".cache" / "lmcl"


def test_paths_that_cannot_be_resolved_are_named(tmp_path, monkeypatch):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for path in (tmp_path / "one", "~nobody-of-this-name/runs", "a\0b"):
        with pytest.raises(InputError, match="cannot resolve the path"):
            paths.runs_folder(path)
    monkeypatch.setenv("LMCL_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(InputError, match="cannot resolve the path '~nobody-of-this-name/cache'"):
        paths.cache_folder()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file: choose a folder"):
        paths.runs_folder(tmp_path / "file")


def test_a_user_without_a_home_folder_is_told_the_variables(monkeypatch):
    monkeypatch.delenv("LMCL_CACHE")
    monkeypatch.setattr(Path, "home", lambda: Path("~of-nobody").expanduser())
    with pytest.raises(InputError, match="no home folder: set HOME, or LMCL_CACHE"):
        paths.cache_folder()


def test_a_variable_holds_an_absolute_path(monkeypatch):
    """Notebooks and commands run in different folders."""
    figures = lambda: paths.figures_folder("")  # noqa: E731
    folders = dict(LMCL_RUNS=paths.runs_folder, LMCL_FIGURES=figures, LMCL_CACHE=paths.cache_folder)
    for variable, folder in folders.items():
        monkeypatch.setenv(variable, "mine")
        with pytest.raises(InputError, match=f"{variable} is 'mine': use an absolute path"):
            folder()
        monkeypatch.setenv(variable, "~/mine")
        assert folder() == Path.home() / "mine"
    assert paths.runs_folder("/an/argument") == Path("/an/argument")
