"""The fixture that fails a test which asks for another machine."""

from __future__ import annotations

import pytest

from .sitecustomize import REFUSALS


@pytest.fixture(autouse=True)
def no_network(request, tmp_path_factory, monkeypatch):
    """A test that asks for another machine fails, even if the code catches the error; not with the marker `network`."""
    refusals = tmp_path_factory.getbasetemp() / "refusals"
    if request.node.get_closest_marker("network"):
        monkeypatch.delenv(REFUSALS, raising=False)
        yield
        return
    monkeypatch.setenv(REFUSALS, str(refusals))
    yield
    if refusals.exists():
        said = refusals.read_text()
        refusals.unlink()
        pytest.fail(said)
