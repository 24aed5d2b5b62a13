"""Training on a tiny folder in LIVEC's layout: what a run writes, and that a killed one goes on as if nothing was."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.fabric.plugins import MixedPrecision
from safetensors.torch import load_file

from lmcl_core import InputError, Recipe, RunError, Split, load, load_benchmark, make_split, train, trainer, training
from lmcl_core.crops import crop_saliency
from lmcl_core.data.store import ImageStore
from lmcl_core.runs import checkpoint, provenance

TINY = Recipe(
    name="tiny",
    backbone="test_efficientnet",
    pretrained=False,
    crop_size=32,
    crops=2,
    scales=(1.0, 1.5),
    test_crops=2,
    epochs=3,
    batch_images=4,
    embedding_dim=8,
)


@pytest.fixture
def table(livec):
    return load_benchmark("livec", livec)


@pytest.fixture
def split(table):
    return make_split(table, 0, test=0.34)


def quiet(line: str) -> None:
    pass


def test_a_run_writes_its_folder_and_the_metrics_it_returns(table, split, tmp_path):
    kept, lines = [], []

    def log(line):
        lines.append(line)
        kept.append((tmp_path / "run" / "checkpoint.pt").is_file())

    result = train(table, split, TINY, tmp_path / "run", "cpu", log=log)
    assert [held for line, held in zip(lines, kept) if line.startswith("epoch")] == [True] * 3  # kept before it is told
    assert sum(line.startswith("tiny: preset of livec with backbone=test_efficientnet, ") for line in lines) == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["labels"] == "people's mean opinion score, 0 to 100"
    assert sorted(os.listdir(tmp_path / "run")) == ["history.csv", "model.safetensors", "predictions.csv", "run.json"]
    assert record["metrics"] == result and record["recipe"] == TINY.to_dict() and record["recipe_hash"] == TINY.hash
    keys = "commit dirty versions device precision threads seconds seed data_hash split_hash split_index benchmark"
    assert set(keys.split()) <= set(record)
    assert len({path.stat().st_mode for path in (tmp_path / "run").iterdir()}) == 1  # no file is private
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(predictions.columns) == ["image", "mos", "pred"] and len(predictions) == len(split.test)
    assert np.corrcoef(predictions["pred"], predictions["mos"])[0, 1] == pytest.approx(result["plcc"])
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == TINY.epochs
    assert result["epoch"] == TINY.epochs and result["plcc"] <= result["test_best_optimistic"]["plcc"]


@pytest.mark.parametrize("variant", ["v1", pytest.param("v2", marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_bit_identical_weights(table, split, tmp_path, monkeypatch, variant):
    recipe = Recipe.from_dict({"variant": variant, "quality_sigma": 0.5}, TINY)
    train(table, split, recipe, tmp_path / "whole", "cpu", log=quiet)
    step, calls = trainer.Trainer.step, []

    def killed(self, *args):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second epoch of two steps
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(trainer.Trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(table, split, recipe, tmp_path / "killed", "cpu", log=quiet)
    assert os.listdir(tmp_path / "killed") == ["checkpoint.pt"]
    (tmp_path / "killed" / f".model.safetensors-{'0' * 32}").write_bytes(b"half of one")
    monkeypatch.setattr(trainer.Trainer, "step", step)
    lines: list[str] = []
    train(table, split, recipe, tmp_path / "killed", "cpu", log=lines.append)
    assert [line[:9] for line in lines if line.startswith("epoch")] == ["epoch 2/3", "epoch 3/3"]
    assert sorted(os.listdir(tmp_path / "killed")) == sorted(os.listdir(tmp_path / "whole"))
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (tmp_path / "whole" / "predictions.csv").read_bytes() == (
        tmp_path / "killed" / "predictions.csv"
    ).read_bytes()


def test_a_checkpoint_keeps_how_half_precision_scales_the_loss(table, split):
    """On a CPU, whose scaler is the same, since 16-mixed is for GPUs."""
    first, second = (trainer.Trainer(table, split, TINY, ImageStore.open(table), "cpu") for _ in range(2))
    for one in (first, second):
        one.fabric.strategy.precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    for one in (first, second):
        one.predicted, one.last = np.zeros(len(split.test)), {}
        one.fabric.strategy.precision.scaler.scale(torch.zeros(1))  # begins at 65,536
    first.fabric.strategy.precision.scaler.update(512.0)
    second.load_state(first.state())
    assert second.fabric.strategy.precision.scaler.get_scale() == 512.0


def test_a_finished_run_is_returned_and_not_computed_again(table, split, tmp_path, monkeypatch):
    first = train(table, split, TINY, tmp_path / "run", "cpu", log=quiet)
    monkeypatch.setattr(training, "Trainer", None)
    lines: list[str] = []
    assert train(table, split, TINY, tmp_path / "run", "cpu", log=lines.append) == first
    assert "finished before" in lines[0]
    (tmp_path / "run" / "checkpoint.pt").touch()  # of a run that was killed before it could delete it
    assert train(table, split, TINY, tmp_path / "run", "cpu", log=quiet) == first
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_a_finished_run_that_lacks_a_file_is_trained_again_with_a_line_that_says_so(
    table, split, tmp_path, monkeypatch
):
    first = train(table, split, TINY, tmp_path / "run", "cpu", log=quiet)
    (tmp_path / "run" / "history.csv").unlink()
    lines: list[str] = []

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # when only the record is not written yet
        patch.setattr(training.folder, "write_run", killed)
        train(table, split, TINY, tmp_path / "run", "cpu", log=lines.append)
    assert lines[0].endswith("run lacks history.csv of a finished run, which is trained again")
    assert train(table, split, TINY, tmp_path / "run", "cpu", log=quiet) == first


@pytest.mark.parametrize("change", [dict(crop_size=4000), dict(backbone="nosuch")])
def test_wrong_use_loses_no_run_even_where_it_was_to_be_made_again(table, split, tmp_path, change):
    train(table, split, TINY, tmp_path / "run", "cpu", log=quiet)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match="every image is smaller, choose at most 48|unknown backbone"):
        train(table, split, Recipe.from_dict(change, TINY), tmp_path / "run", "cpu", resume=False, log=quiet)
    with pytest.raises(InputError, match="nosuch"):
        train(table, split, TINY, tmp_path / "run", "nosuch", resume=False, log=quiet)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_folder_with_another_run_is_refused_and_kept(table, split, tmp_path):
    train(table, split, TINY, tmp_path / "run", "cpu", log=quiet)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="recipe_hash.*--overwrite"):
        train(table, split, Recipe.from_dict({"lr": 1e-3}, TINY), tmp_path / "run", "cpu", log=quiet)
    with pytest.raises(InputError, match="split_hash"):
        train(table, make_split(table, 1, test=0.34), TINY, tmp_path / "run", "cpu", log=quiet)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_of_equal_mos_is_refused_before_any_work(table, split, tmp_path, part):
    table.loc[getattr(split, part), "mos"] = 50.0
    with pytest.raises(InputError, match=f"mos is the same for every {part}"):
        train(table, split, TINY, tmp_path / "run", "cpu", log=quiet)
    assert not (tmp_path / "run").exists()
    table.loc[3, "mos"] = np.nan
    with pytest.raises(InputError, match="is not a finite number"):
        train(table, split, TINY, tmp_path / "run", "cpu", log=quiet)
    with pytest.raises(InputError, match="no path inside its root"):
        train(table.assign(image=["../a.png", *table["image"][1:]]), split, TINY, tmp_path / "run", "cpu", log=quiet)
    wrong = Split(np.array([-1, 2, 3]), np.arange(0), np.arange(5, 9))
    with pytest.raises(InputError, match="split does not fit"):
        train(table, wrong, TINY, tmp_path / "run", "cpu", log=quiet)


def test_a_diverged_loss_and_a_model_that_tells_no_images_apart_stop_the_run(table, split, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RunError, match="no longer finite.*lower lr"):
        patch.setattr(trainer, "quality_loss", lambda *args: args[0].sum() * float("nan"))
        train(table, split, TINY, tmp_path / "run", "cpu", log=quiet)
    monkeypatch.setattr(trainer.Trainer, "predict", lambda trainer, positions: np.full(len(positions), 50.0))
    with pytest.raises(RunError, match="the same score after epoch 1 of .*: lower lr"):
        train(table, split, TINY, tmp_path / "run", "cpu", log=quiet)


def test_weights_that_are_no_numbers_stop_the_run_where_the_loss_does_not_show_it(table, split, tmp_path, monkeypatch):
    update = trainer.update_teacher

    def broken(teacher, student, momentum):
        update(teacher, student, momentum)
        with torch.no_grad():
            student.embedding_head[0].bias[0] = float("nan")

    monkeypatch.setattr(trainer, "update_teacher", broken)
    recipe = dataclasses.replace(TINY, epochs=1, batch_images=64)  # one step: its loss was still one
    with pytest.raises(RunError, match="no longer finite.*lower lr"):
        train(table, split, recipe, tmp_path / "run", "cpu", log=quiet)


def test_predictions_are_those_of_the_saved_weights(table, split, tmp_path):
    """In bfloat16, where most is done to be fast, and after several epochs with an evaluation each."""
    changes = dict(epochs=3, lr=0.01, precision="bf16-mixed", batch_images=4)
    train(table, split, dataclasses.replace(TINY, **changes), tmp_path / "run", "cpu", log=quiet)
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    files = [Path(table.attrs["root"]) / image for image in predictions["image"]]
    again = load(tmp_path / "run").score(files)["score"]
    assert again.to_numpy() == pytest.approx(
        predictions["pred"].to_numpy(), abs=1e-3 * predictions["pred"].std() + 1e-3
    )


@pytest.mark.parametrize("able, used", [(True, "bf16-mixed"), (False, "32-true")])
def test_what_the_run_was_computed_in_is_told_and_recorded(table, split, tmp_path, monkeypatch, able, used):
    monkeypatch.setattr("lmcl_core.common.devices.computes_in_bfloat16", lambda device: able)
    lines: list[str] = []
    recipe = dataclasses.replace(TINY, epochs=1, precision="bf16-mixed")
    train(table, split, recipe, tmp_path / "run", "cpu", log=lines.append)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["precision"] == used
    assert any(f"on cpu in {used}" in line for line in lines)
    assert any("emulates bfloat16" in line for line in lines) is not able


def test_a_run_tells_the_code_and_conditions_that_it_began_with_and_others(table, split, tmp_path, monkeypatch):
    recipe, save = dataclasses.replace(TINY, epochs=2, precision="bf16-mixed"), checkpoint.save

    def found(*states):  # each call finds the next state of the checkout
        known = iter([dict(commit=commit, dirty=dirty, versions={}) for commit, dirty in states])
        monkeypatch.setattr(provenance, "provenance", lambda: next(known))

    def told():
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        return record["commit"], record["dirty"]

    def killed(*args):
        save(*args)
        raise KeyboardInterrupt

    found(("a", False), ("b", True))  # commits and changes that come while it trains are not what it is made of
    train(table, split, recipe, tmp_path / "run", "cpu", log=quiet)
    assert told() == ("a", False)
    found(("a", True), ("b", False))
    able = "lmcl_core.common.devices.computes_in_bfloat16"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", killed)
        patch.setattr(able, lambda device: True)
        train(table, split, recipe, tmp_path / "run", "cpu", resume=False, log=quiet)
    monkeypatch.setattr(able, lambda device: False)
    train(table, split, recipe, tmp_path / "run", "cpu", log=quiet)
    assert told() == ("a, b", True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["precision"] == "bf16-mixed, 32-true" and record["threads"] == torch.get_num_threads()
    first, second = record["conditions"]
    assert [name for name in first if first[name] != second[name]] == ["features", "precision"]
    assert list(second) == "device processor features precision threads processes torch".split()


def test_what_a_network_drops_by_chance_hangs_on_the_seed_and_the_epoch_alone(table, split, monkeypatch):
    def drawn(recipe):
        found: list[float] = []

        def step(self, batch):
            found.append(torch.rand(()).item())  # as a layer that drops paths does
            return dict.fromkeys(("loss", "quality"), torch.zeros(()))

        monkeypatch.setattr(trainer.Trainer, "step", step)
        run = trainer.Trainer(table, split, recipe, ImageStore.open(table), "cpu")
        for _ in range(2):
            run.run_epoch()
        return found[: len(found) // 2], found[len(found) // 2 :]

    first, second = drawn(TINY)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert drawn(TINY) == (first, second)
    assert first != second and drawn(dataclasses.replace(TINY, seed=1))[0] != first


def test_the_saliency_of_crops_is_computed_in_float32_where_the_models_use_bfloat16(table, split, monkeypatch):
    monkeypatch.setattr("lmcl_core.common.devices.computes_in_bfloat16", lambda device: True)
    recipe = dataclasses.replace(TINY, precision="bf16-mixed", crop_size=40, view_size=128)
    run = trainer.Trainer(table, split, recipe, ImageStore.open(table), "cpu")
    batch = next(run.load(run.batches(torch.Generator()), torch.Generator()))
    _, teacher, density = run._forward(batch)
    heights, widths = run.store.heights[batch.indices], run.store.widths[batch.indices]
    exact = crop_saliency(teacher.saliency.double(), batch.boxes, heights, widths)
    assert teacher.saliency.shape[1] > 1 and density.dtype == torch.float32
    torch.testing.assert_close(density.double(), exact, atol=1e-5, rtol=1e-5)


def test_an_epoch_shows_every_training_image_or_a_share_of_them(table, split, tmp_path, monkeypatch):
    seen: list[int] = []
    load_batch = trainer.Trainer._load
    monkeypatch.setattr(trainer.Trainer, "_load", lambda self, i, g: seen.extend(i.tolist()) or load_batch(self, i, g))
    train(table, split, Recipe.from_dict({"epochs": 1, "batch_images": 3}, TINY), tmp_path / "run", "cpu", log=quiet)
    assert sorted(seen) == split.train.tolist()
    seen.clear()
    recipe = Recipe.from_dict({"train_share": 0.5, "epochs": 1}, TINY)
    result = train(table, split, recipe, tmp_path / "half", "cpu", log=quiet)
    assert set(seen) < set(split.train) and len(seen) == len(set(seen)) == round(len(split.train) / 2)
    assert result["n"] == len(split.test)


def test_terms_change_gradients_and_a_weight_of_zero_turns_one_off(table, split):
    def gradients(**changes):
        run = trainer.Trainer(table, split, dataclasses.replace(TINY, **changes), ImageStore.open(table), "cpu")
        before = {key: value.clone() for key, value in run.student.state_dict().items() if "running" in key}
        for batch in run.load(run.batches(torch.Generator()), torch.Generator().manual_seed(0)):
            run.step(batch)  # in the first of two steps, student and teacher agree
        now = run.student.state_dict()
        assert len(before) > 20 and all(torch.equal(now[key], before[key]) for key in before)  # of BatchNorm
        return {name: value.grad for name, value in run.student.named_parameters()}

    head, stem = "embedding_head.2.bias", "backbone.conv_stem.weight"
    assert gradients(manifold_weight=0.5)[head].any() and not gradients(manifold_weight=0.0)[head].any()
    for change in (dict(correlation_weight=1.0), dict(view_gradient=False)):
        assert not torch.equal(gradients(view_size=64, **change)[stem], gradients(view_size=64)[stem])


@pytest.mark.slow
def test_crops_weighed_alike_are_tested_alike(table, split, tmp_path):
    """The plain mean of the crops' scores is what such a model predicts, in training and when it is loaded again."""
    recipe = Recipe.from_dict({"saliency_pooling": False, "epochs": 1, "precision": "32-true"}, TINY)
    train(table, split, recipe, tmp_path / "run", "cpu", log=quiet)
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    scorer = load(tmp_path / "run")
    store = ImageStore.open(table)
    parts = scorer.predict(store.image(int(i)) for i in split.test)
    plain = scorer.to_mos(torch.cat([part.crop_scores for part in parts]).mean(dim=1))
    assert predictions["pred"].to_numpy() == pytest.approx(plain, abs=1e-4)


def test_a_vision_transformer_needs_a_view_of_the_crop_s_size(table, split):
    recipe = Recipe.from_dict({"backbone": "vit_tiny_patch16_224", "view_size": 64}, TINY)
    with pytest.raises(InputError, match="view_size is 64: a vision transformer needs"):
        trainer.Trainer(table, split, recipe, ImageStore.open(table), "cpu")
