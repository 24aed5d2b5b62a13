"""The script for a machine with a GPU, on the CPU."""

from __future__ import annotations

import pandas as pd
import pytest

from lmcl_core import make_split
from tests import gpu


@pytest.mark.slow
def test_the_script_measures_every_epoch(livec, tmp_path, monkeypatch, capsys):
    options = ["--networks", "lite0", "--device", "cpu", "--epochs", "1", "--peak-tflops", "1"]
    monkeypatch.setattr("sys.argv", ["gpu", str(livec), str(tmp_path / "out"), *options])
    monkeypatch.setattr(gpu, "make_split", lambda table, index: make_split(table, index, test=0.34))
    gpu.main()
    rows = pd.read_csv(tmp_path / "out" / "epochs.csv")
    assert rows["epoch"].tolist() == [1] and rows["waiting"].between(0, 1).all() and (rows["mfu"] > 0).all()
    assert "lite0" in capsys.readouterr().out
