"""Several processes make the run that one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lmcl_core import Recipe, load_benchmark, make_split, train
from lmcl_core.processes import make_fabric, part
from lmcl_core.runs import read_run

SCRIPT = """
import sys
from lmcl_core import InputError, Recipe, load_benchmark, make_split, train

table = load_benchmark("livec", sys.argv[1])
for settings in eval(sys.argv[3]):
    try:
        train(table, make_split(table, 0, test=0.34), Recipe.from_dict(settings), sys.argv[2], "cpu")
    except InputError as error:
        print(f"refused: {error}")
"""
ONE_STEP = """
import sys
import torch
from lmcl_core import Recipe, load_benchmark, make_split
from lmcl_core.processes import rank
from lmcl_core.trainer import Trainer

table = load_benchmark("livec", sys.argv[1])
split = make_split(table, 0, test=0.34)
trainer = Trainer(table, split, Recipe.from_dict(eval(sys.argv[3])[0]), "cpu")
trainer.student.eval()
terms = trainer.step(trainer.draw(torch.from_numpy(split.train)[:3], torch.Generator().manual_seed(0)))
if rank() == 0:
    grads = {name: p.grad for name, p in trainer.student.named_parameters()}
    torch.save(dict(terms=terms, **grads), sys.argv[2])
"""
DIES = """
import sys
from lmcl_core.trainer import Trainer

run_epoch = Trainer.run_epoch
Trainer.run_epoch = lambda self: run_epoch(self) if self.epoch == 0 else sys.exit(9)
"""
SMALL = dict(
    **dict(name="small", backbone="resnet18", pretrained=False, crop_size=32, crops=3, scales=(1.0, 1.5), test_crops=2),
    **dict(epochs=2, batch_images=3, lr=1e-3, precision="32-true", manifold_weight=0.5, correlation_weight=0.5),
)


def together(root, folder, settings, text=SCRIPT):
    """Run a script in two processes that torchrun starts; returns its return code and what it printed."""
    script = folder.parent / "train.py"
    script.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [*command, str(script), str(root), str(folder), repr(settings)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def alone(livec, tmp_path):
    """The folder of the run that one process makes."""
    table = load_benchmark("livec", livec)
    split, recipe = make_split(table, 0, test=0.34), Recipe.from_dict(SMALL)
    assert len(split.train) % recipe.batch_images and recipe.batch_images % 2  # uneven batches, uneven parts
    train(table, split, recipe, tmp_path / "alone", "cpu", log=lambda line: None)
    assert read_run(tmp_path / "alone")["processes"] == 1
    return tmp_path / "alone"


def assert_same_run(one, two):
    """Losses, updates and scores of two folders are equal, up to the order of sums."""
    assert read_run(two)["processes"] == 2
    histories = [pd.read_csv(folder / "history.csv").drop(columns="train_seconds") for folder in (one, two)]
    pd.testing.assert_frame_equal(*histories, rtol=2e-4, atol=2e-5)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=2e-4)
    predictions = [pd.read_csv(folder / "predictions.csv") for folder in (one, two)]
    pd.testing.assert_frame_equal(*predictions, atol=0.02)


def test_two_processes_make_the_run_of_one_and_the_first_tells_of_it(livec, tmp_path, alone):
    code, printed = together(livec, tmp_path / "two", [SMALL, SMALL])  # the second time there is nothing left to do
    assert code == 0, printed
    assert [printed.count(line) for line in ("epoch 1/2", "epoch 2/2", "finished before")] == [1, 1, 1]
    assert_same_run(alone, tmp_path / "two")


def test_killed_processes_go_on(livec, tmp_path, alone):
    code, printed = together(livec, tmp_path / "two", [SMALL], DIES + SCRIPT)
    assert code != 0 and (tmp_path / "two" / "checkpoint.pt").is_file() and not (tmp_path / "two" / "run.json").exists()
    code, printed = together(livec, tmp_path / "two", [SMALL])
    assert code == 0 and "epoch 1/2" not in printed and printed.count("epoch 2/2") == 1
    assert_same_run(alone, tmp_path / "two")


def test_the_gradient_of_a_shared_batch_is_that_of_the_whole_batch(livec, tmp_path):
    """Three images: two for one process, one for the other."""
    code, printed = together(livec, tmp_path / "two.pt", [SMALL], ONE_STEP)
    assert code == 0, printed
    with patch.object(sys, "argv", ["", str(livec), str(tmp_path / "one.pt"), repr([SMALL])]):
        exec(ONE_STEP, {})
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert one["backbone.conv1.weight"].abs().max() > 1e-4
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


def test_what_processes_cannot_share_is_refused(livec, tmp_path):
    refused = [dict(batch_images=1), dict(freeze_batchnorm=False), dict(backbone="convnext_atto")]
    code, printed = together(livec, tmp_path / "run", [{**SMALL, **changes} for changes in refused])
    assert "refused: 2 processes share batches of 1 images" in printed, printed
    assert "refused: freeze_batchnorm is false" in printed
    assert "refused: backbone convnext_atto never uses" in printed


def test_one_process_works_on_the_whole_batch():
    assert part(make_fabric("cpu", "32-true"), 5) == slice(0, 5)
