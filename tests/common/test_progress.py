"""A progress bar is drawn for a user who can see it; the items come in any case."""

from __future__ import annotations

import pytest

from lmcl_core.common.progress import bar


@pytest.mark.parametrize("session, rank, shown", [("", "0", False), ("a.ipynb", "0", True), ("a.ipynb", "1", False)])
def test_a_bar_is_drawn_in_a_notebook_on_rank_0(session, rank, shown, monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if session:
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    monkeypatch.setenv("RANK", rank)
    assert list(bar(iter("abc"), 3, "letters")) == list("abc")
    assert ("letters" in capsys.readouterr().err) is shown
