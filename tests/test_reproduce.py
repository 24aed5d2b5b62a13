"""The papermill chain on the demo with a recipe cut down to seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lmcl_core import InputError, RunError
from lmcl_core import reproduce as module
from lmcl_core.reproduce import Job, check_parameters, reproduce, run_notebook

TINY = {"epochs": 1, "crop_size": 32, "crops": 2, "test_crops": 2, "pretrained": False, "batch_images": 32}
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def walked(tmp_path_factory, request):
    """Runs, figures and log of one whole chain."""
    base = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        lines: list[str] = []
        outputs = reproduce(
            "demo",
            splits=1,
            runs_dir=str(base / "runs"),
            figures_dir=str(base / "figures"),
            device="cpu",
            changes=TINY,
            log=lines.append,
        )
    return base, outputs, lines


def again(base: Path, **options) -> list[str]:
    lines: list[str] = []
    reproduce(
        "demo",
        splits=1,
        runs_dir=str(base / "runs"),
        figures_dir=str(base / "figures"),
        device="cpu",
        changes=TINY,
        log=lines.append,
        **options,
    )
    return lines


def test_the_chain_runs_every_notebook_in_order(walked):
    base, outputs, lines = walked
    assert [line.split(":")[0] for line in lines if line.endswith("running")] == [
        "01_data_preparation",
        "02_training  lmcl  split 0",
        "02_training  no-manifold  split 0",
        "03_benchmark_evaluation",
        "04_hard_examples_umap",
    ]
    assert all(path.is_file() for path in outputs)


def test_each_run_folder_holds_its_notebook_and_results(walked):
    base, _, _ = walked
    for recipe in ("lmcl", "no-manifold"):
        folder = base / "runs" / "demo" / recipe / "split-00"
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "02_training.ipynb",
            "02_training.json",
            "run.json",
            "history.csv",
            "predictions.csv",
            "model.safetensors",
        }
    weight = json.loads((folder / "run.json").read_text())["recipe"]["manifold_weight"]
    assert folder.parent.name == "no-manifold" and weight == 0


def test_every_picture_stands_beside_the_table_it_was_drawn_from(walked):
    figures = walked[0] / "figures" / "demo"
    pictures = sorted(figures.glob("*.png"))
    assert {path.name[:2] for path in pictures} == {"01", "02", "03", "04"}
    for path in pictures:
        assert path.with_suffix(".csv").stat().st_size > 0 and path.with_suffix(".pdf").stat().st_size > 0


def test_a_second_call_computes_nothing(walked):
    assert all(line.endswith("finished before") for line in again(walked[0]))


def test_a_removed_figure_is_drawn_again(walked):
    base, _, _ = walked
    (base / "figures" / "demo" / "03_scores.png").unlink()
    assert [line.split(":")[0] for line in again(base) if line.endswith("running")] == ["03_benchmark_evaluation"]
    assert (base / "figures" / "demo" / "03_scores.png").is_file()


def test_a_training_notebook_that_did_not_end_is_run_again_and_its_run_is_kept(walked):
    base, _, _ = walked
    folder = base / "runs" / "demo" / "lmcl" / "split-00"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    (folder / "02_training.json").unlink()
    assert [line for line in again(base) if line.endswith("running")] == ["02_training  lmcl  split 0: running"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_each_epoch_is_told_while_a_notebook_runs(walked):
    assert sum(line.strip().startswith("epoch 1/1") for line in walked[2]) == 2


def test_a_run_with_another_recipe_in_its_place_is_refused(walked):
    base, _, _ = walked
    with pytest.raises(InputError, match="holds another run"):
        reproduce(
            "demo",
            splits=1,
            runs_dir=str(base / "runs"),
            figures_dir=str(base / "figures"),
            device="cpu",
            changes={**TINY, "lr": 1e-3},
            log=lambda line: None,
        )


def test_a_failing_notebook_and_cell_are_named_and_its_copy_is_kept(tmp_path, monkeypatch):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    shutil.copy(FIXTURES / "raises.ipynb", notebooks / "raises.ipynb")
    monkeypatch.setattr(module, "project_folder", lambda: tmp_path)
    with pytest.raises(
        RunError, match=r"raises.ipynb failed in cell In \[3\], '1 / number' \(ZeroDivisionError: division"
    ):
        run_notebook(Job("raises.ipynb", tmp_path / "out" / "raises.ipynb", {"number": 0}))
    assert (tmp_path / "out" / "raises.ipynb").is_file()


def test_an_unknown_notebook_parameter_is_an_error(tmp_path):
    with pytest.raises(InputError, match="unknown parameter of raises.ipynb 'numbr': did you mean 'number'"):
        check_parameters(FIXTURES / "raises.ipynb", {"numbr": 1})


@pytest.mark.parametrize(
    "changes, message", [({"epoch": 1}, "did you mean 'epochs'"), ({"epochs": "3"}, "must be int")]
)
def test_a_bad_recipe_field_is_found_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        reproduce("demo", splits=1, runs_dir=str(tmp_path / "runs"), figures_dir=str(tmp_path), changes=changes)
    assert not (tmp_path / "runs").exists()


def test_no_splits_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1"):
        reproduce("demo", splits=0, runs_dir=str(tmp_path))
