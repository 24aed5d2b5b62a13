"""A finished run is recognised by its files and hashes, and never mistaken for a run of something else."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import write_results

from lmcl_core import InputError, Recipe, RunError, Split, make_split
from lmcl_core.common.files import _MACHINE
from lmcl_core.runs import folder as runs
from lmcl_core.runs.folder import IDENTITY, _digest, finished_run, read_predictions, read_run, run_folder, write_run

WANTED = dict(benchmark="livec", recipe_hash="r", data_hash="d", split_hash="s")

#: Identity and recipe in a run.json of the version that still had the retired recipe fields.
EARLIER_RUN = json.loads("""
{"benchmark": "livec", "recipe_hash": "c9d325ef6e90", "data_hash": "b58e60867d90", "split_hash": "08aba6bf5119",
 "recipe": {"name": "lmcl", "backbone": "tf_efficientnet_lite0", "pretrained": true, "stages": null, "frozen_stages": 0,
  "probe": false, "embedding_dim": 128, "crop_size": 224, "crops": 4, "scales": [1.0, 1.0, 1.0, 1.5], "view_size": null,
  "flip": true, "test_crops": 9, "short_side": null, "variant": "v1", "temperature": 0.2, "intra_weight": 0.5,
  "manifold_weight": 0.02, "mutual_weight": 0.2, "quality_sigma": 1.0, "correlation_weight": 0.5,
  "freeze_batchnorm": true, "batchnorm_momentum": 0.05, "saliency_pooling": true, "train_share": 1.0,
  "ema_momentum": 0.99, "epochs": 7, "batch_images": 16, "lr": 0.0002, "backbone_lr": null, "tested": "student",
  "weight_decay": 0.01, "precision": "bf16-mixed", "seed": 0}}
""")


RECORD = {**WANTED, "seconds": 1.5, "metrics": dict(plcc=0.5, srcc=0.5, n=3)}
TABLE = pd.DataFrame(dict(image=["a.png", "b.png", "c.png", "d.png"], mos=[1.0, 2.0, 3.0, 4.0]))
SPLIT = Split(np.array([3]), np.arange(0), np.arange(3), index=0)


def write_finished(folder: Path, **changes) -> None:
    """All files of a finished run, whose predictions have a PLCC of 0.5."""
    write_results(folder, TABLE.iloc[SPLIT.test].assign(pred=[1.0, 3.0, 2.0]))
    write_run(folder, RECORD | changes)


@pytest.fixture
def finished(tmp_path) -> Path:
    """A run folder with all files of a finished run."""
    write_finished(tmp_path)
    return tmp_path


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """Ten images of known names, sizes in bytes and MOS, so that their hashes are the same on every machine."""
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(bytes(number + 1))
    numbers = range(10)
    images, contents = [f"{n}.png" for n in numbers], [str(n) for n in numbers]
    table = pd.DataFrame(dict(image=images, mos=[10.0 * n for n in numbers], content=contents))
    table.attrs = dict(benchmark="livec", root=str(tmp_path))
    return table


def test_run_folders_are_named_by_benchmark_recipe_and_split():
    assert run_folder("runs", "livec", "lmcl", 3) == Path("runs/livec/lmcl/split-03")
    assert run_folder(Path("/r"), "demo", "no-manifold", "official") == Path("/r/demo/no-manifold/split-official")
    with pytest.raises(InputError, match="is a path"):  # runs would lie among the data
        run_folder("runs", "/data/mine", "lmcl", 3)


def test_a_finished_run_is_found_with_its_record(finished):
    record = finished_run(finished, WANTED)
    assert record["seconds"] == 1.5 and {"commit", "dirty", "versions"} <= set(record)
    assert record == read_run(finished) and finished_run(finished / "no", WANTED) is None
    with pytest.raises(InputError, match=r"run\.json lacks threads, device: delete the folder"):
        read_run(finished, ["seconds", "threads", "device"])


def test_a_finished_run_of_the_earlier_version_is_accepted(table, tmp_path):
    folder, split = tmp_path / "run", make_split(table, 0)
    write_run(folder, {**EARLIER_RUN, "seconds": 60.0, "metrics": dict(plcc=1.0, srcc=1.0, n=2)})
    test = table[["image", "mos"]].iloc[split.test]
    write_results(folder, test.assign(pred=test["mos"]))
    wanted = Recipe.for_benchmark("livec").identity(table, split)
    assert finished_run(folder, wanted, table, split)["seconds"] == 60.0
    with pytest.raises(InputError, match="different: recipe_hash; lr is 0.0002 in that run, 0.01 now"):
        finished_run(folder, Recipe.for_benchmark("livec", lr=0.01).identity(table, split))


@pytest.mark.parametrize("name", ["run.json", *runs.RESULTS])
def test_a_run_that_lacks_a_file_is_not_finished(finished, name):
    (finished / name).unlink()
    assert finished_run(finished, WANTED) is None


@pytest.mark.parametrize("name", runs.RESULTS)
def test_an_altered_file_is_damaged(finished, name):
    content = (finished / name).read_bytes()
    (finished / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    message = re.escape(f"{finished / name} is damaged (its SHA-256 is not that in run.json): delete the folder")
    with pytest.raises(InputError, match=message):
        finished_run(finished, WANTED, TABLE, SPLIT)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected 3 predictions, found 0"),
        ("a,1,1\nb,2,3,4\n", "Error tokenizing data. C error: Expected 3 fields in line 3, saw 4"),
        ("a.png,1,1\nb.png,2,good\nc.png,3,2\n", "pred is not a finite number in every row"),
        ("a.png,1,1\nb.png,2,inf\nc.png,3,2\n", "pred is not a finite number in every row"),
        ("a.png,1,1\nb.png,2,3\nd.png,3,2\n", "its images are not those of the split"),
        ("a.png,10,1\nb.png,20,3\nc.png,30,2\n", "its mos are not those of the benchmark"),
        ("a.png,1,1\nb.png,2,2\nc.png,3,3\n", "its plcc is 1.0000, but 0.5000 is recorded in run.json"),
    ],
)
def test_predictions_that_are_not_those_of_the_run_are_damaged(finished, text, message):
    record = json.loads((finished / "run.json").read_text())
    del record["files"]  # as in runs of earlier versions
    (finished / "run.json").write_text(json.dumps(record | dict(sha256=_digest(record))))
    (finished / "predictions.csv").write_text(f"image,mos,pred\n{text}")
    with pytest.raises(InputError, match=re.escape(f"predictions.csv is damaged ({message}): delete the folder")):
        finished_run(finished, WANTED, TABLE, SPLIT)
    (finished / "predictions.csv").write_text("image,mos\na.png,1\n")
    with pytest.raises(InputError, match="predictions.csv is damaged .*pred.* not in index"):
        read_predictions(finished)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(metrics=dict(plcc=0.5, srcc=0.9, n=3)), "predictions.csv is damaged (its srcc is 0.5000, but 0.9000"),
        (
            dict(metrics=dict(plcc=0.5, srcc=0.5, krcc=0.9, n=3)),
            "predictions.csv is damaged (its krcc is 0.3333, but 0.9000",
        ),
        (
            dict(metrics=dict(plcc=0.5, srcc=0.5, rmse=0.1, n=3)),
            "predictions.csv is damaged (its rmse is 0.8165, but 0.1000",
        ),
        (dict(split_index=7), "run.json is damaged (its split_index is not 0)"),
    ],
)
def test_recorded_numbers_that_do_not_follow_from_the_predictions_are_damaged(tmp_path, changes, message):
    write_finished(tmp_path, **changes)
    with pytest.raises(InputError, match=re.escape(message)):
        finished_run(tmp_path, WANTED, TABLE, SPLIT)


def test_a_recipe_that_is_not_that_of_its_hash_is_damaged(tmp_path):
    write_finished(tmp_path, recipe=dict(name="a", lr=0.1, stages=None))
    with pytest.raises(InputError, match="its recipe is not that of its recipe_hash; lr is 0.1 in that run, 0.2 now"):
        finished_run(tmp_path, {**WANTED, "recipe": dict(name="b", lr=0.2)})
    assert finished_run(tmp_path, {**WANTED, "recipe": dict(name="b", lr=0.1)})


@pytest.mark.parametrize(
    "field, value",
    [
        *(("metrics", metrics) for metrics in (None, dict(plcc="a", srcc=0.5, n=3), dict(plcc=2, srcc=0.5, n=3))),
        *(("seconds", -1.0), ("seconds", float("nan")), ("threads", 0), ("dirty", "no"), ("split_index", [0])),
        *(("files", dict(a="0")), ("conditions", []), ("recipe", []), ("commit", 3), ("benchmark", None)),
    ],
)
def test_a_field_of_another_type_is_named_with_what_it_should_be(finished, field, value):
    record = json.loads((finished / "run.json").read_text()) | {field: value}
    (finished / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"run\.json is damaged \({field} is .*, expected .*\): delete the folder"):
        read_run(finished)
    for content in (b'{"benchmark": "li', b"[]", b"[" * 100_000, b"\xff\xfe\xfa"):
        (finished / "run.json").write_bytes(content)
        with pytest.raises(InputError, match=r"run\.json is damaged .*delete the folder"):
            finished_run(finished, WANTED)


@pytest.mark.parametrize("key", IDENTITY)
def test_another_run_is_refused_and_the_message_names_what_differs(finished, key):
    with pytest.raises(InputError, match=re.escape(f"{finished} holds another run (different: {key})")) as caught:
        finished_run(finished, {**WANTED, key: "other"})
    assert "--overwrite" in str(caught.value)
    with pytest.raises(InputError, match=f"different: {key}"):  # a missing hash differs
        runs.check_same({name: value for name, value in WANTED.items() if name != key}, WANTED, finished)


def test_files_that_belong_to_no_run_are_not_overwritten(finished):
    runs.refuse_foreign_files(finished)
    runs.refuse_foreign_files(finished / "missing")
    (finished / "run.json").rename(finished / "checkpoint.pt")
    runs.refuse_foreign_files(finished)
    (finished / "checkpoint.pt").unlink()
    (finished / "history.csv").unlink()
    message = f"{finished} holds predictions.csv and model.safetensors but no run"
    with pytest.raises(InputError, match=re.escape(message)):
        runs.refuse_foreign_files(finished)
    runs.discard(finished)
    runs.refuse_foreign_files(finished)
    assert not list(finished.iterdir())
    (finished / "run.json").mkdir()
    with pytest.raises(InputError, match="run.json is not a file, but a run writes a file there"):
        runs.refuse_foreign_files(finished)


def test_a_full_disk_keeps_the_old_record(finished, monkeypatch):
    before, files = (finished / "run.json").read_text(), sorted(finished.iterdir())

    def full(*args):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"disk full while saving .*run\.json"):
        write_run(finished, WANTED)
    assert (finished / "run.json").read_text() == before and sorted(finished.iterdir()) == files


HOLD = """
import sys, time
from pathlib import Path
from lmcl_core.common.files import _MACHINE
from lmcl_core.runs import folder as runs
with runs.reserved(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_run_folder_belongs_to_one_process_until_that_process_ends(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(InputError, match="another process is training in"), runs.reserved(folder, timeout=0.2):
            pass
        other.kill()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    machine, hexadecimal = _MACHINE, "0" * 32
    for middle in ("", f"-{machine}-{dead.stdout.strip()}", "-ffffffff-1"):  # earlier version, this machine, another
        (folder / f".model.safetensors{middle}-{hexadecimal}").write_bytes(b"half of one")
    kept = [folder / f".features.npz-{machine}-{os.getpid()}-{hexadecimal}", folder / ".mine-1"]
    for path in kept:
        path.touch()
    with runs.reserved(folder, timeout=5):
        pass
    assert sorted(folder.iterdir()) == kept
