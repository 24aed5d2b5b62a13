"""A model file holds the weights and all metadata that scoring needs."""

from __future__ import annotations

import errno
import json
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
from lmcl_core.runs.folder import write_run
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


def test_the_bundled_weights_load():
    assert list(BUNDLED) == ["general", "livec"]
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
        ({"lmcl": "[1]"}, r"metadata of the weights at .* is damaged \(expected a JSON object\)"),
        ({"lmcl": '{"recipe": {}}'}, "lacks benchmark, mos_range, mos_mean"),
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
    "change",
    [
        *(dict(recipe=[]), dict(benchmark=3), dict(mos_std=0.0), dict(mos_mean="50"), dict(packed=0)),
        *(dict(mos_range=[100, 0]), dict(largest_short_side=0), dict(mos_percentiles=[1.0] * 100)),
        *(dict(mos_percentiles=[*range(100), 0]), dict(mos_mean=float("inf")), dict(largest_short_side=True)),
    ],
)
def test_metadata_of_another_type_are_named_with_what_they_should_be(run, change):
    path, state, metadata = read_model(run)
    save_file(state, path, metadata={"lmcl": json.dumps(metadata | change)})
    (name,) = change
    with pytest.raises(InputError, match=rf"metadata of the weights at .* is damaged \({name} is .*, expected "):
        read_model(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_do_not_load(run, model, value):
    path, state, metadata = read_model(run)
    state["score_head.weight"][0, 1] = value
    save_file(state, path, metadata={"lmcl": json.dumps(metadata)})
    with pytest.raises(InputError, match=r"are damaged \(score_head.weight is not finite\): train or fetch"):
        load(run)
    write_run(run, {}, dict(files={"model.safetensors": "0" * 64}))
    with pytest.raises(InputError, match="their SHA-256 is not that in run.json"):
        read_model(run)


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
