"""A run that is trained again is identical under the same conditions, and what differs is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from lmcl_core import InputError, Recipe, load_benchmark, make_split, train
from lmcl_core.cli import main
from lmcl_core.data.splits import validation_split
from lmcl_core.results.rerun import rerun
from lmcl_core.runs.folder import _digest

SMALL = dict(backbone="test_efficientnet", pretrained=False, crop_size=32, crops=2, scales=(1.0, 1.5), test_crops=2)


@pytest.fixture(scope="module")
def trained(own_module, tmp_path_factory) -> Path:
    """A finished run on the numbered split 0 of own data."""
    table, folder = load_benchmark(own_module), own_module.parent / "run"
    recipe = Recipe(**SMALL, embedding_dim=8, epochs=1, batch_images=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        train(table, make_split(table, 0), recipe, folder, "cpu", log=lambda line: None)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of that run, which a test may change."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in trained.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(run: Path, **fields) -> None:
    """Change fields of a run.json, and its digest; None deletes one."""
    record = json.loads((run / "run.json").read_text()) | dict(sha256=None) | fields
    record = {key: value for key, value in record.items() if value is not None}
    (run / "run.json").write_text(json.dumps({**record, "sha256": _digest(record)}))


def test_a_record_whose_digest_was_removed_is_damaged(run):
    record = json.loads((run / "run.json").read_text())
    del record["sha256"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="run.json is damaged"):
        rerun(run, "")


def test_a_run_trained_again_under_the_same_conditions_is_identical(run, own_module):
    before, lines = {path.name: path.read_bytes() for path in run.iterdir()}, []
    found = rerun(run / "run.json", own_module.parent, log=lines.append)
    assert (found.table["difference"] == 0).all() and (found.table["tolerance"] == 0).all() and found.outside == 0
    assert "largest difference of a prediction" in found.table["quantity"].tolist()
    assert lines[-1] == "the conditions are the recorded ones: tolerances are 0"
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.slow
def test_conditions_that_differ_are_named_and_tolerances_are_stated(run, own_module, tmp_path):
    conditions = json.loads((run / "run.json").read_text())["conditions"]
    change(run, conditions=[conditions[0] | dict(processor="another"), conditions[0]])
    (run / "predictions.csv").unlink()  # only metrics are compared
    lines = []
    found = rerun(run, own_module.parent, out=tmp_path / "new", log=lines.append)
    assert lines[-1].startswith("conditions differ: processor (another, ") and "stated, not measured" in lines[-1]
    assert found.table["quantity"].tolist() == ["PLCC", "SRCC", "RMSE"] and (found.table["tolerance"] > 0).all()
    assert (tmp_path / "new" / "run.json").is_file()
    with pytest.raises(InputError, match="which holds another run: name an empty folder"):
        rerun(run, own_module.parent, out=tmp_path / "new", log=lines.append)


@pytest.mark.slow
def test_the_command_exits_with_1_for_another_result(run, own_module, capsys):
    predictions = pd.read_csv(run / "predictions.csv")
    predictions["pred"] *= 2  # the same correlations
    predictions.to_csv(run / "predictions.csv", index=False)
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    metrics["rmse"] = float(((predictions["pred"] - predictions["mos"]) ** 2).mean() ** 0.5)
    change(run, files=None, metrics=metrics)
    with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as stopped:
        main(["rerun", str(run), "--data-root", str(own_module.parent)])
    printed = capsys.readouterr()
    assert stopped.value.code == 1 and "outside: RMSE, largest difference of a prediction" in printed.err
    assert "outside" in printed.out and "Traceback" not in printed.err


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda run: change(run, data_hash="0" * 12), "recorded data_hash 000000000000, here"),
        (lambda run: change(run, split_index="mine"), "has the split 'mine', which cannot be made"),
        (lambda run: change(run, recipe_hash="0" * 12), "is damaged .its recipe is not that of its recipe_hash"),
        (lambda run: os.remove(run / "run.json"), "holds no run.json: name the folder of a finished run"),
    ],
)
def test_what_cannot_be_trained_again_is_wrong_use(run, own_module, damage, message, monkeypatch):
    monkeypatch.setattr("lmcl_core.training.train", None)
    damage(run)
    with pytest.raises(InputError, match=message):
        rerun(run, own_module.parent, log=lambda line: None)


def test_official_and_validation_splits_are_made_again(run, own_module, monkeypatch):
    table, asked = load_benchmark("mine", own_module.parent), []

    def train(table, split, *args, **options):
        asked.append(split)
        raise KeyboardInterrupt

    monkeypatch.setattr("lmcl_core.training.train", train)
    recipe = Recipe.from_dict(json.loads((run / "run.json").read_text())["recipe"])
    for split in (validation_split(table, 1), make_split(table, "official")):
        change(run, split_index=split.index, **recipe.identity(table, split), files=None)
        (run / "predictions.csv").unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            rerun(run, own_module.parent)
        assert asked[-1].test.tolist() == split.test.tolist() and asked[-1].index == split.index


def test_a_run_of_own_data_asks_for_its_folder(run):
    with pytest.raises(InputError, match="was trained on own data, 'mine': name its folder with --data-root"):
        rerun(run)
