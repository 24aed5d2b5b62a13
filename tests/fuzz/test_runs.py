"""A run folder with an altered byte is refused, trained again, or holds what the run has written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from layouts import write_own
from mutations import examples, tried

from lmcl_core import InputError, Recipe, RunError, load_benchmark, make_split, train
from lmcl_core.runs.checkpoint import NAME
from lmcl_core.training import Trainer

TINY = dict(backbone="test_efficientnet", pretrained=False, crop_size=32, crops=2, test_crops=2, epochs=2)
RECIPE = Recipe(**TINY, batch_images=8, embedding_dim=8, precision="32-true")


class Stop(Exception):
    """The end of a run before its last epoch."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function that trains in a folder, and the folders of a finished and of an unfinished run."""
    base = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCL_CACHE", str(base / "cache"))
        table = load_benchmark(write_own(base / "own"))
        split, lines = make_split(table, 0), []

        def work(folder: Path) -> tuple[dict, bool]:
            lines.clear()
            metrics = train(table, split, RECIPE, folder, "cpu", log=lines.append)
            return metrics, any("finished before" in line for line in lines)

        whole = work(base / "finished")[0]

        def stop(trainer):
            if trainer.epoch == 1:
                raise Stop
            return epoch(trainer)

        epoch = Trainer.run_epoch
        with patch.context() as inner, pytest.raises(Stop):
            inner.setattr(Trainer, "run_epoch", stop)
            work(base / "unfinished")
        yield work, base, whole


def altered(content: bytes, share: float, other: int) -> bytes:
    """One byte, at a share of the length, becomes another one."""
    at = int(share * len(content))
    return content[:at] + bytes([(content[at] + other) % 256]) + content[at + 1 :]


FILES = ["run.json", "predictions.csv", "model.safetensors", "history.csv", NAME]


@examples(2)
@given(name=st.sampled_from(FILES), share=st.floats(0, 1, exclude_max=True), other=st.integers(1, 255))
@example(name="run.json", share=0.328125, other=1)
def test_an_altered_byte_is_never_taken_for_the_run(runs, name, share, other):
    tried["runs"] += 1
    work, base, whole = runs
    with TemporaryDirectory(dir=base) as copy:
        folder = Path(copy) / "run"
        shutil.copytree(base / ("unfinished" if name == NAME else "finished"), folder)
        content = altered((folder / name).read_bytes(), share, other)
        (folder / name).unlink()
        (folder / name).write_bytes(content)
        try:
            found = work(folder)
        except (InputError, RunError) as error:
            tried["runs refused"] += 1
            assert len(str(error).splitlines()) <= 2 and str(folder) in str(error)
        else:  # a blank of run.json
            assert name == "run.json" and found == (whole, True)
            record = json.loads((base / "finished" / name).read_text())
            record.pop("sha256")
            assert record.items() <= json.loads(content).items()
        assert (folder / name).read_bytes() == content, "nothing of a damaged run is overwritten"
