"""Several processes make the run that one process makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lmcl_core import Recipe, load_benchmark, make_split, train
from lmcl_core.common.distributed import broadcast, collect, gather, make_fabric, part, rank
from lmcl_core.runs.folder import read_run

TRAIN = """
import atexit, os, pathlib, sys, torch

def note():  # registered first, so called last
    state = "in the group" if torch.distributed.is_initialized() else "left the group"
    pathlib.Path(sys.argv[2]).with_name("rank-" + os.environ["RANK"]).write_text(state)

atexit.register(note)
from lmcl_core import Recipe, load_benchmark, make_split, train

table = load_benchmark("livec", sys.argv[1])
for _ in range(2):  # the second time the run is finished
    train(table, make_split(table, 0, test=0.34), Recipe.from_dict(eval(sys.argv[3])), sys.argv[2], "cpu")
"""
DIE_AFTER_ONE_EPOCH = """
import sys
from lmcl_core.trainer import Trainer

run_epoch = Trainer.run_epoch
Trainer.run_epoch = lambda self: run_epoch(self) if self.epoch == 0 else sys.exit(9)
"""
ONE_STEP = """
import sys
import torch
from lmcl_core import InputError, Recipe, load_benchmark, make_split
from lmcl_core.common.distributed import rank
from lmcl_core.data.store import ImageStore
from lmcl_core.trainer import Trainer

table = load_benchmark("livec", sys.argv[1])
split, settings = make_split(table, 0, test=0.34), eval(sys.argv[3])

def step(**changes):
    trainer = Trainer(table, split, Recipe.from_dict({**settings, **changes}), ImageStore.open(table), "cpu")
    trainer.student.eval()
    (batch,) = trainer.load([torch.from_numpy(split.train)[:3]], torch.Generator().manual_seed(0))
    return trainer.step(batch), {name: p.grad for name, p in trainer.student.named_parameters()}

terms, gradients = step()
if rank() == 0:
    torch.save(dict(terms=terms, **gradients), sys.argv[2])
for changes in (dict(batch_images=1), dict(backbone="convnext_atto")):
    try:
        step(**changes)
    except InputError as error:
        print(f"refused: {error}")
"""
SMALL = dict(
    **dict(name="small", backbone="resnet18", pretrained=False, crop_size=32, crops=3, scales=(1.0, 1.5), test_crops=2),
    **dict(epochs=2, batch_images=3, lr=1e-3, precision="32-true", manifold_weight=0.5, correlation_weight=0.5),
)


def run_together(root, out, text):
    """Run a script in two processes started by torchrun; returns the exit code and the output."""
    script = out.parent / "script.py"
    script.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command += [str(script), str(root), str(out), repr(SMALL)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_that_are_killed_and_resumed_make_the_run_of_one(livec, tmp_path):
    table, recipe = load_benchmark("livec", livec), Recipe.from_dict(SMALL)
    split = make_split(table, 0, test=0.34)
    assert len(split.train) % recipe.batch_images and recipe.batch_images % 2  # uneven batches, uneven parts
    one, two = tmp_path / "one", tmp_path / "two"
    train(table, split, recipe, one, "cpu", log=lambda line: None)

    code, _ = run_together(livec, two, DIE_AFTER_ONE_EPOCH + TRAIN)
    assert code != 0 and (two / "checkpoint.pt").is_file() and not (two / "run.json").exists()
    for noted in tmp_path.glob("rank-*"):
        noted.unlink()
    code, output = run_together(livec, two, TRAIN)
    assert code == 0, output
    lines = ("epoch 1/2", "epoch 2/2", "finished before")
    assert [output.count(line) for line in lines] == [0, 1, 1], output
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["left the group"] * 2, output

    assert [read_run(folder)["processes"] for folder in (one, two)] == [1, 2]
    histories = [pd.read_csv(folder / "history.csv").drop(columns="train_seconds") for folder in (one, two)]
    pd.testing.assert_frame_equal(*histories, rtol=2e-4, atol=2e-5)  # up to the order of sums
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=2e-4)
    predictions = [pd.read_csv(folder / "predictions.csv") for folder in (one, two)]
    pd.testing.assert_frame_equal(*predictions, atol=0.02)


@pytest.mark.slow
def test_the_gradient_of_a_shared_batch_is_that_of_the_whole_batch(livec, tmp_path):
    """Three images: two in one process, one in the other. Recipes that processes cannot share are refused."""
    code, output = run_together(livec, tmp_path / "two.pt", ONE_STEP)
    assert code == 0, output
    assert "refused: 2 processes cannot share 1 images" in output
    assert "refused: backbone convnext_atto does not use" in output
    with patch.object(sys, "argv", ["", str(livec), str(tmp_path / "one.pt"), repr(SMALL)]):
        exec(ONE_STEP, {})
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert one["backbone.conv1.weight"].abs().max() > 1e-4
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


def test_the_parts_of_all_processes_make_the_batch_and_differ_by_one_image_at_most():
    for images, processes in [(5, 1), (5, 2), (7, 3), (6, 3)]:
        fabrics = [SimpleNamespace(world_size=processes, global_rank=number) for number in range(processes)]
        parts = [list(range(images))[part(fabric, images)] for fabric in fabrics]
        assert sum(parts, []) == list(range(images)) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_keeps_its_values():
    fabric, values = make_fabric("cpu", "32-true"), torch.arange(3.0)
    assert gather(fabric, [values], 3)[0] is values and collect(fabric, values, 3) is values
    assert rank() == 0 and broadcast(values, "cpu", "32-true") is values
