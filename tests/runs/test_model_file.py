"""A model file holds the weights and all metadata that scoring needs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from lmcl_core import InputError, Recipe, RunError, load
from lmcl_core.data.splits import Split
from lmcl_core.runs import model_file
from lmcl_core.runs.model_file import BUNDLED, pack, read_model, save_model


class Tiny(torch.nn.Module):
    """A model with a score head, an embedding head and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.score_head, self.embedding_head = torch.nn.Linear(3, 1), torch.nn.Linear(3, 2)
        self.register_buffer("steps", torch.tensor(7))


@pytest.fixture
def model():
    return Tiny()


@pytest.fixture
def run(model, tmp_path):
    """A run folder with a model file."""
    table = pd.DataFrame(dict(mos=np.arange(101.0)))
    table.attrs = dict(benchmark="livec", mos_range=(0, 100))
    split, moments = Split(np.arange(101), np.arange(0), np.arange(0)), dict(mos_mean=50.0, mos_std=20.0)
    path = tmp_path / "model.safetensors"
    save_model(path, model, Recipe().to_dict(), table, split, largest_short_side=100, **moments)
    return tmp_path


def test_weights_and_metadata_come_back(run, model):
    path, state, metadata = read_model(run)
    assert path == run / "model.safetensors" and state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    assert Recipe.from_dict(metadata["recipe"]) == Recipe() and metadata["mos_percentiles"] == list(range(101))
    assert (metadata["mos_mean"], metadata["mos_std"], metadata["packed"]) == (50, 20, False)


def test_packed_weights_are_half_precision_without_the_embedding_head(run, model, tmp_path):
    pack(run, tmp_path / "packed.safetensors")
    _, state, metadata = read_model(tmp_path / "packed.safetensors")
    weight = model.score_head.weight
    assert metadata["packed"] and sorted(state) == ["score_head.bias", "score_head.weight", "steps"]
    assert torch.equal(state["score_head.weight"], weight.half().float()) and state["steps"] == 7


def test_the_bundled_weights_load():
    assert list(BUNDLED) == ["livec"]
    scorer = load("livec")
    assert scorer.about["packed"] and scorer.about["benchmark"] == "livec"
    assert scorer.recipe.hash == Recipe.for_benchmark("livec").hash
    assert np.isfinite(scorer.score(np.zeros((64, 64, 3), dtype=np.uint8))["score"]).all()


def test_unusable_files_are_named(run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no weights at .*other.*: name a model\.safetensors .*livec"):
        read_model(tmp_path / "other.safetensors")
    path = tmp_path / "a.safetensors"
    for metadata, message in (
        (None, "was not written by lmcl_core"),
        ({"lmcl": "[1]"}, r"invalid metadata \(expected a JSON object\)"),
        ({"lmcl": '{"recipe": {}}'}, "lack benchmark, largest_short_side, mos_mean"),
    ):
        save_file({"a": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(InputError, match=message):
            read_model(path)
    path.write_bytes((run / "model.safetensors").read_bytes()[:50])
    with pytest.raises(InputError, match="a.safetensors are damaged"):
        read_model(path)
    monkeypatch.setattr(model_file.os, "access", lambda *args: False)
    with pytest.raises(InputError, match="a.safetensors are not readable"):
        read_model(path)


@pytest.mark.parametrize(
    "code, message", [(errno.ENOSPC, "disk full while saving"), (errno.EFBIG, "cannot save .*: File too large")]
)
def test_a_failed_write_is_called_a_full_disk_only_if_the_disk_is_full(run, tmp_path, monkeypatch, code, message):
    def fail(path, content):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(RunError, match=message):
        pack(run, tmp_path / "packed.safetensors")
    assert not (tmp_path / "packed.safetensors").exists()
