"""The main job on the demo with a recipe cut down to seconds: what runs, what is skipped, what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lmcl_core import InputError, Recipe, RunError, load_benchmark, make_split, train
from lmcl_core.estimates import forecast
from lmcl_core.jobs import Job, run_notebook
from lmcl_core.recipe import VARIANTS, variants_of
from lmcl_core.records import update_records
from lmcl_core.reproduce import Order, _lacks_input, plan, prepare, reproduce

TINY = {"epochs": 1, "crop_size": 32, "crops": 2, "test_crops": 2, "pretrained": False, "batch_images": 32}
TINY["train_share"] = 0.2


def order(base: Path, **options) -> Order:
    wanted = dict(splits=1, runs_dir=str(base / "runs"), figures_dir=str(base / "figures"), device="cpu", changes=TINY)
    return Order(**{**wanted, **options})


@pytest.fixture(scope="module")
def walked(tmp_path_factory, request):
    """Runs, figures and log of one whole chain."""
    base = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        lines: list[str] = []
        outputs = reproduce(order(base), log=lines.append)
    return base, outputs, lines


def again(base: Path, **options) -> list[str]:
    lines: list[str] = []
    reproduce(order(base, **options), log=lines.append)
    return lines


def running(lines: list[str]) -> list[str]:
    return [line.removesuffix(": running") for line in lines if line.endswith(": running")]


def test_the_chain_runs_every_notebook_in_order(walked):
    base, outputs, lines = walked
    assert running(lines)[:3] == [
        "01_data_preparation  demo",
        "02_training  demo  lmcl  split 0",
        "02_training  demo  no-manifold  split 0",
    ]
    assert sorted(running(lines)[3:]) == [
        "03_benchmark_evaluation  demo",
        "04_hard_examples_umap  demo",
        "06_cross_dataset  demo",
    ]
    assert len(outputs) == 6 and all(path.is_file() for path in outputs)


def test_each_run_folder_holds_its_notebook_and_results(walked):
    base, _, _ = walked
    for recipe in ("lmcl", "no-manifold"):
        folder = base / "runs" / "demo" / recipe / "split-00"
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "02_training.ipynb",
            "02_training.json",
            "features.npz",
            *({"cross"} if recipe == "lmcl" else ()),
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
    assert {path.name[:2] for path in pictures} == {"01", "02", "03", "04", "06"}
    for path in pictures:
        assert path.with_suffix(".csv").stat().st_size > 0 and path.with_suffix(".pdf").stat().st_size > 0


def test_a_second_call_computes_nothing(walked):
    proxy, *lines = again(walked[0])
    assert "a PROXY" in proxy
    assert len(lines) == 6 and all(line.endswith("finished before") for line in lines)


def test_a_removed_figure_is_drawn_again(walked):
    base, _, _ = walked
    (base / "figures" / "demo" / "03_scores.png").unlink()
    assert running(again(base)) == ["03_benchmark_evaluation  demo"]
    assert (base / "figures" / "demo" / "03_scores.png").is_file()


def test_a_training_notebook_that_did_not_end_is_run_again_and_its_run_is_kept(walked):
    base, _, _ = walked
    folder = base / "runs" / "demo" / "lmcl" / "split-00"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    (folder / "02_training.json").unlink()
    assert running(again(base)) == ["02_training  demo  lmcl  split 0"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_tables_are_made_from_records_where_runs_are_not_at_hand(walked, tmp_path):
    base, known = walked[0], tmp_path / "records.csv"
    update_records(known, base / "runs", load_benchmark("demo"))
    parameters = dict(splits=1, train_missing=False, recipe_changes=json.dumps(TINY), recorded=str(known))
    folders = dict(runs_dir=str(tmp_path / "nowhere"), figures_dir=str(tmp_path / "figures"))
    run_notebook(
        Job("03_benchmark_evaluation.ipynb", tmp_path / "03.ipynb", dict(benchmark="demo", **parameters, **folders))
    )
    made, first = (pd.read_csv(folder / "figures" / "demo" / "03_results.csv") for folder in (tmp_path, base))
    pd.testing.assert_frame_equal(made, first, rtol=1e-4)
    parameters |= dict(benchmark="demo", first_split=1)
    run_notebook(Job("03_benchmark_evaluation.ipynb", tmp_path / "next.ipynb", dict(**parameters, **folders)))
    assert pd.read_csv(tmp_path / "figures" / "demo" / "03_results.csv").empty


def test_each_epoch_is_told_while_a_notebook_runs(walked):
    assert sum(": epoch 1/1" in line for line in walked[2]) == 2


def test_a_run_with_another_recipe_in_its_place_is_refused(walked):
    base, _, _ = walked
    with pytest.raises(InputError, match="holds another run"):
        again(base, changes={**TINY, "lr": 1e-3})


@pytest.mark.parametrize(
    "changes, message", [({"epoch": 1}, "did you mean 'epochs'"), ({"epochs": "3"}, "must be int")]
)
def test_a_bad_recipe_field_is_found_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        reproduce(order(tmp_path, changes=changes))
    assert not (tmp_path / "runs").exists()


def test_no_splits_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1"):
        reproduce(order(tmp_path, splits=0))


def test_failed_runs_are_named_and_only_what_needs_them_is_left_out(tmp_path):
    """Crops that are larger than every picture; the tables are made and stay empty."""
    lines: list[str] = []
    with pytest.raises(RunError, match="2 notebooks failed: 02_training  demo  .*every image is smaller"):
        reproduce(order(tmp_path, changes={**TINY, "crop_size": 640}), log=lines.append)
    assert {line.split("  ")[0] for line in running(lines)} == {
        "01_data_preparation",
        "02_training",
        "03_benchmark_evaluation",
        "06_cross_dataset",
    }


def test_what_has_lost_its_input_is_left_out_and_nothing_else(tmp_path):
    stages = list(plan(order(tmp_path), ["demo", "livec"]))
    jobs = [job for stage in stages for job in stage]

    def left_out(*titles: str) -> list[str]:
        return [job.title for job in jobs if _lacks_input(job, dict.fromkeys(titles, RunError("x")))]

    assert left_out("02_training  livec  no-manifold  split 0") == ["04_hard_examples_umap  livec"]
    unsound = left_out("01_data_preparation  livec")
    assert len(unsound) == 4 and all("  livec" in title for title in unsound)
    assert len(left_out("01_data_preparation  livec", "01_data_preparation  demo")) == len(jobs)


def test_a_relative_data_root_is_found_from_the_notebooks_too(tmp_path, livec, monkeypatch):
    monkeypatch.chdir(livec.parent)
    relative = order(tmp_path, benchmark="livec", data_root=livec.name)
    assert all(Path(job.parameters["data_root"]) == livec for stage in plan(relative, ["livec"]) for job in stage)


def test_a_folder_that_holds_another_run_is_told_before_anything_is_run(walked):
    lines: list[str] = []
    with pytest.raises(InputError, match="delete that folder"):
        reproduce(order(walked[0], changes={**TINY, "lr": 1e-3}), log=lines.append)
    assert lines == []


def test_a_batch_lies_in_the_folders_of_its_recipes(tmp_path):
    with pytest.raises(InputError, match="name cannot be changed"):
        reproduce(order(tmp_path, changes={"name": "mine"}))


def test_the_demo_is_built_wherever_the_other_benchmarks_lie(tmp_path):
    jobs = [job for stage in plan(Order("demo,livec", data_root=str(tmp_path)), ["demo", "livec"]) for job in stage]
    roots = {job.parameters["benchmark"]: job.parameters["data_root"] for job in jobs}
    assert roots == {"demo": "", "livec": str(tmp_path), "demo,livec": str(tmp_path)}
    assert Order("demo", data_root=str(tmp_path)).settings("demo")["data_root"] == str(tmp_path)


def test_the_forecast_times_what_is_alike_once(tmp_path, livec, monkeypatch):
    asked = []
    monkeypatch.setattr("lmcl_core.estimates.crop_seconds", lambda recipe, device: asked.append(recipe) or (1.0, 1.0))
    forecast(order(tmp_path, benchmark="demo,livec", data_root=str(livec)))
    assert len(asked) == 1


def test_all_takes_what_is_there_and_says_what_is_not(tmp_path, livec):
    lines: list[str] = []
    table = forecast(order(tmp_path, benchmark="all", data_root=str(livec)), log=lines.append)
    assert list(table["benchmark"]) == ["livec"]
    left_out = {line.split(":")[0] for line in lines if ": left out: missing_folder" in line}
    assert left_out == {"live", "csiq", "tid2013", "kadid10k", "koniq10k", "livefb", "spaq"}


def test_the_forecast_counts_runs_and_learns_from_finished_ones(walked, tmp_path):
    done = forecast(order(walked[0], splits=2)).iloc[0]
    assert (done["runs"], done["finished"], done["basis"]) == (2, 2, "finished runs")
    seconds = [json.loads(p.read_text())["seconds"] for p in (walked[0] / "runs").glob("demo/*/split-00/run.json")]
    assert done["minutes"] == pytest.approx(sum(seconds) / 60)
    fresh = forecast(order(tmp_path)).iloc[0]
    assert (fresh["runs"], fresh["finished"], fresh["basis"]) == (2, 0, "timed now") and fresh["minutes"] > 0
    assert not (tmp_path / "runs").exists()


def test_a_killed_main_process_loses_no_epoch(tmp_path):
    """Its workers end with it and leave the run folder; whoever comes next goes on after the last saved epoch."""
    changes = {**TINY, "epochs": 6}
    code = (
        "import json, sys; from lmcl_core.reproduce import Order, reproduce\n"
        "if __name__ == '__main__': reproduce(Order(**json.loads(sys.argv[1])), lambda line: print(line, flush=True))"
    )
    (tmp_path / "main.py").write_text(code)
    wanted = json.dumps(dataclasses.asdict(order(tmp_path, changes=changes)))
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), wanted], stdout=subprocess.PIPE, text=True
    ) as main:
        for line in main.stdout:
            if "lmcl  split 0: epoch 2/6" in line:
                break
        main.kill()
    table = load_benchmark("demo")
    folder, lines = tmp_path / "runs" / "demo" / "lmcl" / "split-00", []
    recipe = Recipe.for_benchmark("demo", **changes)
    train(table, make_split(table, 0), recipe, folder, "cpu", log=lines.append)
    epochs = [int(line.split()[1].split("/")[0]) for line in lines if line.startswith("epoch ")]
    assert 2 <= epochs[0] < 6 and epochs == list(range(epochs[0], 7))


def test_several_benchmarks_share_one_table_and_keep_their_own_folders(tmp_path):
    stages = list(plan(order(tmp_path, splits=2), ["demo", "livec"]))
    assert [len(stage) for stage in stages] == [2, 8, 4]
    places = [job.output.relative_to(tmp_path / "runs").as_posix() for job in stages[2]]
    assert places == [
        "all/03_benchmark_evaluation.ipynb",
        "demo/04_hard_examples_umap.ipynb",
        "livec/04_hard_examples_umap.ipynb",
        "all/06_cross_dataset.ipynb",
    ]


def test_the_ablation_trains_every_variant_and_draws_notebook_05(tmp_path):
    without_share = {field: value for field, value in TINY.items() if field != "train_share"}
    stages = list(plan(order(tmp_path, ablation=True, changes=without_share), ["demo", "livec"]))
    assert [len(stage) for stage in stages] == [2, len(variants_of("demo")) + len(variants_of("livec")), 6]
    trained = {job.parameters["recipe"] for job in stages[1]}
    assert trained == set(VARIANTS)  # each on one of them at least
    drawn = [job for job in stages[2] if job.notebook.startswith("05")]
    assert [job.parameters["benchmark"] for job in drawn] == ["demo", "livec"]
    assert all(job.parameters["variants"] == "all" and not job.parameters["train_missing"] for job in drawn)
    with pytest.raises(InputError, match="crops cannot be changed in 'crops-2'"):
        prepare(order(tmp_path, ablation=True, changes={"crops": 3}))


def test_planning_a_batch_needs_no_torch():
    """Its import takes seconds, of which a short batch has few; the notebooks import it themselves."""
    code = "import lmcl_core.reproduce, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
