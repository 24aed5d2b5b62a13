"""The reproduction on the demo, with a recipe of seconds: what runs, what is skipped, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lmcl_core import InputError, Recipe, RunError, load_benchmark, make_split, train
from lmcl_core.batch.parameters import check_parameters
from lmcl_core.batch.forecast import forecast
from lmcl_core.batch.notebook import Job, run_notebook
from lmcl_core.batch.reproduce import ReproduceOptions, compare_with_reference, lacks_input, plan, recipes_of, reproduce
from lmcl_core.common.paths import reference_folder
from lmcl_core.recipe import VARIANTS, variants_of
from lmcl_core.results.records import update_records
from lmcl_core.runs.folder import _digest

TINY = {"epochs": 1, "crop_size": 32, "crops": 2, "test_crops": 2, "pretrained": False, "batch_images": 32}
TINY |= {"train_share": 0.2, "backbone": "test_efficientnet"}


def options(base: Path, **changed) -> ReproduceOptions:
    own = dict(splits=1, runs_dir=str(base / "runs"), figures_dir=str(base / "figures"), device="cpu", changes=TINY)
    return ReproduceOptions(**{**own, **changed})


def tiny_run(base: Path, variant: str) -> Path:
    """The run folder of split 0 on the demo."""
    return base / "runs" / "demo" / Recipe.for_benchmark("demo", variant, **TINY).name / "split-00"


def jobs_of(chosen: ReproduceOptions, *benchmarks: str) -> list[Job]:
    return [job for stage in stages_of(chosen, *benchmarks) for job in stage]


def stages_of(chosen: ReproduceOptions, *benchmarks: str) -> list[list[Job]]:
    return list(plan(chosen, recipes_of(chosen, {name: name for name in benchmarks})))


@pytest.fixture(scope="module")
def walked(tmp_path_factory, request):
    """Folder, executed notebooks and log of one reproduction."""
    base = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        lines: list[str] = []
        outputs = reproduce(options(base, workers=2), log=lines.append)
    print(*lines, sep="\n")
    return base, outputs, lines


def again(base: Path, **changed) -> list[str]:
    lines: list[str] = []
    reproduce(options(base, **changed), log=lines.append)
    return lines


def running(lines: list[str]) -> list[str]:
    return [line.removesuffix(": running") for line in lines if line.endswith(": running")]


@pytest.mark.slow
def test_every_notebook_runs_in_order_and_a_second_call_computes_nothing(walked):
    base, outputs, lines = walked
    assert running(lines)[0] == "01_data_preparation  demo"
    assert sorted(running(lines)[1:3]) == [f"02_training  demo  {name}  split 0" for name in ("lmcl", "no-manifold")]
    last = ("03_benchmark_evaluation", "04_hard_examples_umap", "06_cross_dataset")
    assert sorted(running(lines)[3:]) == [f"{name}  demo" for name in last]
    assert len(outputs) == 6 and all(path.is_file() for path in outputs)
    assert sum(": epoch 1/1" in line for line in lines) == 2
    proxy, *lines, compared = again(base)
    assert "a PROXY" in proxy and len(lines) == 6 and all(line.endswith("finished before") for line in lines)
    assert compared == "demo: not compared with the reference, because recipe fields were changed"


@pytest.mark.slow
def test_run_folders_hold_notebook_and_results_and_every_figure_lies_beside_its_table(walked):
    base, _, _ = walked
    files = {"02_training.ipynb", "02_training.json", "features.npz", "run.json", "history.csv", "predictions.csv"}
    for recipe, more in (("lmcl", {"cross"}), ("no-manifold", set())):
        folder = tiny_run(base, recipe)
        assert {path.name for path in folder.iterdir()} == files | more | {"model.safetensors"}
    recipe = json.loads((folder / "run.json").read_text())["recipe"]
    assert recipe["name"] == folder.parent.name and recipe["manifold_weight"] == 0
    figures = base / "figures" / "demo"
    drawn = sorted(figures.glob("*.png"))
    assert {path.name[:2] for path in drawn} == {"01", "02", "03", "04"}
    assert not {"03_overview", "06_cross"} & {path.stem for path in drawn}, "one row, one cell: no figure"
    assert pd.read_csv(figures / "06_cross.csv")["n"].item() == 60
    for path in drawn:
        assert path.with_suffix(".csv").stat().st_size > 0 and path.with_suffix(".pdf").stat().st_size > 0


@pytest.mark.slow
def test_removed_figures_and_a_training_notebook_that_did_not_end_are_made_again_and_the_run_is_kept(walked):
    base, _, _ = walked
    folder = tiny_run(base, "lmcl")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    (folder / "02_training.json").unlink()
    (base / "figures" / "demo" / "03_scores.png").unlink()
    lines = again(base)
    assert running(lines) == ["02_training  demo  lmcl  split 0", "03_benchmark_evaluation  demo"]
    assert (base / "figures" / "demo" / "03_scores.png").is_file()
    assert any(line.endswith("only the notebook runs again, nothing is trained") for line in lines)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(changes={"epoch": 1}), "did you mean 'epochs'"),
        (dict(splits=0), "splits is 0"),
        (dict(figures_dir=str(reference_folder(""))), "holds the reference results"),
        (dict(ablation=True, changes={"crops": 3}), "crops defines the variant 'crops-2'"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        reproduce(options(tmp_path, **changed))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_failed_runs_are_named_and_only_what_needs_them_is_left_out(tmp_path):
    """Crops that are larger than every picture; the tables are made and stay empty."""
    lines: list[str] = []
    with pytest.raises(RunError, match="2 notebooks failed: 02_training  demo  .*every image is smaller"):
        reproduce(options(tmp_path, changes={**TINY, "crop_size": 640}), log=lines.append)
    assert {line.split("  ")[0] for line in running(lines)} == {
        "01_data_preparation",
        "02_training",
        "03_benchmark_evaluation",
        "06_cross_dataset",
    }


def test_a_notebook_whose_inputs_failed_is_left_out_and_no_other(tmp_path):
    jobs = jobs_of(options(tmp_path), "demo", "livec")

    def left_out(*titles: str) -> list[str]:
        return [job.title for job in jobs if lacks_input(job, dict.fromkeys(titles, RunError("x")))]

    assert left_out("02_training  livec  no-manifold  split 0") == ["04_hard_examples_umap  livec"]
    unsound = left_out("01_data_preparation  livec")
    assert len(unsound) == 3 and all("  livec" in title for title in unsound)
    both = left_out("01_data_preparation  livec", "01_data_preparation  demo")
    assert both == [job.title for job in jobs if not job.notebook.startswith("01")]


@pytest.mark.slow
def test_a_folder_that_holds_another_run_is_refused_before_anything_runs(walked, tmp_path):
    base, lines = tmp_path, []
    (folder := tiny_run(base, "lmcl")).mkdir(parents=True)
    record = json.loads((tiny_run(walked[0], "lmcl") / "run.json").read_text())
    record |= dict(data_hash="other")
    (folder / "run.json").write_text(json.dumps(record | dict(sha256=_digest(record))))
    with pytest.raises(InputError, match="delete that folder"):
        reproduce(options(base), log=lines.append)
    assert lines == []


def test_the_demo_is_built_wherever_the_other_benchmarks_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    chosen = ReproduceOptions("demo,livec", data_root=tmp_path.name)
    roots = {job.parameters["benchmark"]: job.parameters["data_root"] for job in jobs_of(chosen, "demo", "livec")}
    assert roots == {"demo": "", "livec": str(tmp_path), "demo,livec": str(tmp_path)}
    alone = jobs_of(ReproduceOptions("demo", data_root=str(tmp_path)), "demo")
    assert {job.parameters["data_root"] for job in alone} == {str(tmp_path)}


@pytest.mark.slow
def test_the_forecast_counts_runs_and_learns_from_finished_ones(walked, tmp_path):
    done = forecast(options(walked[0], splits=2)).iloc[0]
    assert (done["runs"], done["finished"], done["basis"]) == (2, 2, "finished runs")
    seconds = [json.loads(p.read_text())["seconds"] for p in (walked[0] / "runs").glob("demo/*/split-00/run.json")]
    assert done["minutes"] == pytest.approx(sum(seconds) / 60)


@pytest.mark.slow
def test_a_killed_main_process_loses_no_epoch(tmp_path):
    """Its workers end with it; the next training continues after the last saved epoch."""
    changes = {**TINY, "epochs": 25}
    code = (
        "import json, sys; from lmcl_core.batch.reproduce import ReproduceOptions, reproduce\n"
        "if __name__ == '__main__': reproduce(ReproduceOptions(**json.loads(sys.argv[1])), print)"
    )
    (tmp_path / "main.py").write_text(code)
    wanted = json.dumps(dataclasses.asdict(options(tmp_path, changes=changes)))
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), wanted], stdout=subprocess.PIPE, text=True
    ) as main:
        for line in main.stdout:
            if "lmcl  split 0: epoch 2/25" in line:
                break
        main.kill()
    table = load_benchmark("demo")
    recipe, lines = Recipe.for_benchmark("demo", **changes), []
    folder = tmp_path / "runs" / "demo" / recipe.name / "split-00"
    train(table, make_split(table, 0), recipe, folder, "cpu", log=lines.append)
    epochs = [int(line.split()[1].split("/")[0]) for line in lines if line.startswith("epoch ")]
    assert 2 <= epochs[0] < 25 and epochs == list(range(epochs[0], 26))


def test_own_data_keep_their_path_in_notebooks_and_their_name_in_folders(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own.parent)
    own = own.rename(own.parent / "mine")  # a path that looks like the name
    chosen = options(tmp_path, benchmark=f"livec, {own.name}", data_root=str(tmp_path))
    recipes = recipes_of(chosen, dict(livec="livec", mine=load_benchmark(own)))
    jobs = [job for stage in plan(chosen, recipes) for job in stage]
    assert {job.parameters["benchmark"] for job in jobs} == {"livec", str(own), f"livec,{own}"}
    places = {str(job.output.relative_to(tmp_path / "runs").parent) for job in jobs}
    assert places > {"all", "mine", f"mine/{recipes['mine']['lmcl'].name}/split-00"}
    assert {tuple(job.benchmarks) for job in jobs} == {("livec",), ("mine",), ("livec", "mine")}


def test_every_job_sets_only_parameters_that_its_notebook_has(tmp_path):
    for job in jobs_of(options(tmp_path, ablation=True, changes={}), "demo", "livec"):
        check_parameters(job.notebook.removesuffix(".ipynb"), job.parameters)


def test_the_ablation_trains_every_variant_and_runs_notebook_05(tmp_path):
    stages = stages_of(options(tmp_path, ablation=True, changes={}), "demo", "livec")
    assert [len(stage) for stage in stages] == [2, len(variants_of("demo")) + len(variants_of("livec")), 6]
    trained = {job.parameters["recipe"] for job in stages[1]}
    assert trained == set(VARIANTS)  # each on at least one of them
    drawn = [job for job in stages[2] if job.notebook == "05_ablation.ipynb"]
    assert [job.parameters["benchmark"] for job in drawn] == ["demo", "livec"]
    assert all(job.parameters["variants"] == "all" and not job.parameters["train_missing"] for job in drawn)
    assert all(job.reads_runs == tuple(VARIANTS) and job.reads_files for job in drawn)


def test_results_are_compared_with_the_reference(tmp_path, monkeypatch):
    """Results that equal the reference lie within any tolerance."""
    chosen = options(tmp_path, changes={})
    shutil.copytree(reference_folder("demo"), chosen.figures / "demo")
    lines: list[str] = []
    compare_with_reference(chosen, ["spaq"], lines.append)
    assert "holds no results to compare with" in lines.pop()
    compare_with_reference(chosen, ["demo"], lines.append)
    found = pd.read_csv(chosen.figures / "demo" / "reproduction.csv")
    assert len(found) > 20 and (found["difference"] == 0).all()
    assert f"demo: {len(found)} of {len(found)} quantities within tolerance" in lines[0]
