"""Several processes make the run that one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
try:
    train(table, make_split(table, 0, test=0.34), Recipe.from_dict(eval(sys.argv[3])), sys.argv[2], "cpu")
except InputError as error:
    sys.exit(f"refused: {error}")
"""
ONE_STEP = """
import sys
import torch
from lmcl_core import Recipe, load_benchmark, make_split
from lmcl_core.processes import rank
from lmcl_core.trainer import Trainer

table = load_benchmark("livec", sys.argv[1])
split = make_split(table, 0, test=0.34)
trainer = Trainer(table, split, Recipe.from_dict(eval(sys.argv[3])), "cpu")
trainer.student.eval()
terms = trainer.step(trainer.draw(torch.from_numpy(split.train)[:3], torch.Generator().manual_seed(0)))
if rank() == 0:
    grads = {name: p.grad for name, p in trainer.student.named_parameters()}
    torch.save(dict(terms=terms, **grads), sys.argv[2])
"""
DIES = """
from lmcl_core.trainer import Trainer

run_epoch = Trainer.run_epoch
Trainer.run_epoch = lambda self: run_epoch(self) if self.epoch == 0 else sys.exit(9)
"""
SMALL = dict(
    **dict(name="small", backbone="resnet18", pretrained=False, crop_size=32, crops=3, scales=(1.0, 1.5), test_crops=2),
    **dict(epochs=2, batch_images=3, lr=1e-3, precision="32-true", manifold_weight=0.5, correlation_weight=0.5),
)


def together(count, root, folder, settings, text=SCRIPT):
    """Run a script in `count` processes that torchrun starts; returns its return code and what it printed."""
    script = folder.parent / "train.py"
    script.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [*command, str(script), str(root), str(folder), repr(settings)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("changes", [{}, dict(variant="v2", quality_sigma=1.0, frozen_stages=0, tested="teacher")])
def test_two_processes_give_the_losses_updates_and_scores_of_one(livec, tmp_path, changes):
    table = load_benchmark("livec", livec)
    split, recipe = make_split(table, 0, test=0.34), Recipe.from_dict({**SMALL, **changes})
    assert len(split.train) % recipe.batch_images and recipe.batch_images % 2  # uneven batches, uneven parts
    one, two = tmp_path / "one", tmp_path / "two"
    train(table, split, recipe, one, "cpu", log=lambda line: None)
    code, printed = together(2, livec, two, {**SMALL, **changes})
    assert code == 0, printed
    assert read_run(two)["processes"] == 2 and read_run(one)["processes"] == 1
    assert printed.count("epoch 1/2") == 1  # the first process alone tells of the run
    histories = [pd.read_csv(folder / "history.csv").drop(columns="train_seconds") for folder in (one, two)]
    pd.testing.assert_frame_equal(*histories, rtol=2e-4, atol=2e-5)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=2e-4)
    predictions = [pd.read_csv(folder / "predictions.csv") for folder in (one, two)]
    pd.testing.assert_frame_equal(*predictions, atol=0.02)


def test_the_gradient_of_a_shared_batch_is_that_of_the_whole_batch(livec, tmp_path):
    found = []
    for count in (1, 2):  # three images: two for one process, one for the other
        code, printed = together(count, livec, tmp_path / f"{count}.pt", SMALL, ONE_STEP)
        assert code == 0, printed
        found.append(torch.load(tmp_path / f"{count}.pt"))
    assert found[0]["backbone.conv1.weight"].abs().max() > 1e-4
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "count, changes, said",
    [(4, {}, "4 processes share batches of 2 images"), (2, dict(freeze_batchnorm=False), "freeze_batchnorm is false")],
)
def test_what_processes_cannot_share_is_refused(livec, tmp_path, count, changes, said):
    code, printed = together(count, livec, tmp_path / "run", {**SMALL, **changes})
    assert code != 0 and f"refused: {said}" in printed


def test_a_backbone_with_parameters_that_are_never_used_is_refused(livec, tmp_path):
    code, printed = together(2, livec, tmp_path / "run", {**SMALL, "backbone": "convnext_atto"})
    assert code != 0 and "refused: backbone convnext_atto never uses" in printed


def test_killed_processes_go_on_and_give_the_run_of_those_that_were_not(livec, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    dies = SCRIPT.replace("try:", DIES + "try:")
    assert together(2, livec, whole, SMALL)[0] == 0
    code, printed = together(2, livec, killed, SMALL, dies)
    assert code != 0 and (killed / "checkpoint.pt").is_file() and not (killed / "run.json").exists()
    code, printed = together(2, livec, killed, SMALL)
    assert code == 0 and "epoch 1/2" not in printed and "epoch 2/2" in printed
    weights = [load_file(folder / "model.safetensors") for folder in (whole, killed)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)
    code, printed = together(2, livec, killed, SMALL)
    assert code == 0 and printed.count("finished before") == 1 and "epoch" not in printed


def test_one_process_works_on_the_whole_batch():
    assert part(make_fabric("cpu", "32-true"), 5) == slice(0, 5)
