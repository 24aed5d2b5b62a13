"""A bar for people, lines for a log, nothing in the outputs of an executed notebook."""

from __future__ import annotations

import io
import sys
import time

import nbformat
import pytest
from nbclient import NotebookClient

from lmcl_core.common import progress
from lmcl_core.common.progress import bar, meter


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Lines are due at once, and this process belongs to no JupyterLab."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(progress, "_FIRST", 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("session, rank, shown", [("", "1", False), ("a.ipynb", "0", True), ("a.ipynb", "1", False)])
def test_a_bar_is_drawn_in_jupyterlab_on_rank_0(session, rank, shown, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    if session:
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    assert list(bar(iter("abc"), 3, "letters")) == list("abc")
    assert ("letters" in capsys.readouterr().err) is shown


def test_a_terminal_shows_a_bar_and_clears_it(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(bar(iter("abc"), 3, "letters")) == list("abc")
    text = sys.stderr.getvalue()
    assert "letters:   0%" in text and "\n" not in text and text.endswith("\r")


def test_a_log_gets_whole_lines_with_rate_and_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_FIRST", 5)
    for _ in bar(range(400), 400, "scoring"):
        now[0] += 0.25  # 100 s in all
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "scoring 20/400, 4/s, 95 s left" and len(lines) == 10
    for _ in bar(range(19), 19, "scoring"):  # less than 5 s of work
        now[0] += 0.25
    for _ in bar(range(30), None, "members"):
        now[0] += 0.25
    assert capsys.readouterr().err == "members 20, 4/s\n"


def test_bytes_are_counted_from_what_is_there(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = meter(3_000_000_000, "downloading", "B", 1_000_000_000)
    now[0] = 10.0
    shown.update(500_000_000)
    assert capsys.readouterr().err == "downloading 1.50GB/3.00GB, 50.0MB/s, 30 s left\n"


@pytest.mark.slow
def test_an_executed_notebook_has_no_progress_in_its_outputs():
    source = (
        "from lmcl_core.common import progress\nprogress._FIRST = 0\nprint(list(progress.bar('abc', 3, 'letters')))"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(book, kernel_name="python3").execute()
    assert [output.get("text") for output in book.cells[0].outputs] == ["['a', 'b', 'c']\n"]
