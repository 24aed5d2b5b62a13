"""The frozen regime: the feature bank, the start from ridge regression, training and scoring on stored features."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import lmcl_core as lmcl
from lmcl_core import inference
from lmcl_core.backbones import bank
from lmcl_core.backbones.networks import NETWORKS
from lmcl_core.backbones.ridge import ridge
from lmcl_core.backbones.weights import weights_file
from lmcl_core.crops import CropBank, bank_boxes, sampler_of
from lmcl_core.data.store import ImageStore
from lmcl_core.inference import Prediction
from lmcl_core.trainer import make_schedule
from lmcl_core.training import FrozenTrainer

TINY = dict(backbone="test_vit", pretrained=False, crop_size=32, crops=3, test_crops=3, bank_crops=2, epochs=2, lr=1e-3)
CPU = torch.device("cpu")


@pytest.fixture
def table(livec):
    return lmcl.load_benchmark("livec", livec)


@pytest.fixture
def recipe(table):
    return lmcl.Recipe.for_benchmark(table, network="clip-b16-frozen", **TINY)


def test_every_network_names_a_model_and_valid_fields():
    for name in NETWORKS:
        recipe = lmcl.Recipe.for_benchmark("livec", network=name)
        assert recipe.name == ("lmcl" if name == "lite0" else f"lmcl+{name}") and not recipe.differences("livec")
    with pytest.raises(lmcl.InputError, match="unknown network 'clip-b17'.*clip-b16"):
        lmcl.Recipe.for_benchmark("livec", network="clip-b17")
    changed = lmcl.Recipe.for_benchmark("livec", "quality", network="deit3-s", epochs=1)
    assert changed.name == f"quality+deit3-s@{changed.hash[:6]}" and changed.differences("livec") == dict(epochs=1)


def test_features_are_those_of_the_backbone_in_the_order_of_the_boxes(table, recipe):
    store = ImageStore.open(table)
    crops = CropBank(store, recipe, CPU)
    assert crops.boxes.shape[1] == 2 + 3 + 2 and torch.equal(
        crops.boxes, bank_boxes(sampler_of(recipe), store.heights, store.widths, 2, 3)
    )
    backbone = bank.FrozenBackbone("test_vit", 32, False)
    rows, columns = torch.tensor([4, 1]), torch.tensor([[3, 0], [1, 2]])
    boxes, features, tokens = crops.gather(rows, columns)
    pixels = torch.cat([store.crops(rows, boxes, 32), store.whole(rows, 32)])
    wanted, maps = backbone(pixels)
    assert wanted.shape[1] == backbone.features == 9 * backbone.network.num_features
    found = torch.cat([features[:, :2].flatten(0, 1), features[:, 2]])
    torch.testing.assert_close(found.float(), wanted, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(tokens.float(), maps[-2:], rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_a_killed_bank_goes_on(table, recipe, tmp_path):
    """The process is killed in the middle."""
    slow = (
        "import torch, lmcl_core as lmcl\nfrom lmcl_core.crops import CropBank\n"
        "from lmcl_core.data.store import ImageStore\n"
        f"table = lmcl.load_benchmark('livec', {str(table.attrs['root'])!r})\n"
        f"recipe = lmcl.Recipe.from_dict({recipe.to_dict()!r})\n"
        "CropBank(ImageStore.open(table), recipe, torch.device('cpu'), print)"
    )
    started = subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, text=True)
    assert "computing features of 8 crops of 12 images" in started.stdout.readline()
    time.sleep(0.5)
    started.send_signal(signal.SIGKILL)
    started.wait()
    lines = []
    store = ImageStore.open(table)
    crops = CropBank(store, recipe, CPU, lines.append)
    assert np.isfinite(crops.features.crops).all() and (crops.features.crops != 0).any(axis=(1, 2)).all()
    assert CropBank(store, recipe, CPU, lines.append).features.crops.shape == crops.features.crops.shape
    assert sum("computing" in line for line in lines) <= 1


@pytest.mark.parametrize("suffix", [".crops", ".tokens", ".json"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"\0\0", lambda b: b[:3] + bytes([b[3] ^ 1]) + b[4:], None]
)
def test_a_bank_whose_files_have_changed_is_refused(table, recipe, damage, suffix, monkeypatch, tmp_path):
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path))
    store = ImageStore.open(table)
    CropBank(store, recipe, CPU)
    (path,) = tmp_path.glob(f"features/*{suffix}")
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    with pytest.raises(lmcl.InputError, match="features at .* are damaged .*: delete .* to compute them again"):
        CropBank(store, recipe, CPU)
    path.write_bytes(content)
    CropBank(store, recipe, CPU)


def test_features_that_cannot_be_stored_are_refused(table, recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path))
    forward = bank.FrozenBackbone.forward
    monkeypatch.setattr(bank.FrozenBackbone, "forward", lambda self, x: tuple(1e6 * y for y in forward(self, x)))
    with pytest.raises(lmcl.RunError, match="features of image 0 are not finite in float16: check the weights"):
        CropBank(ImageStore.open(table), recipe, CPU)
    assert not list(tmp_path.glob("features/*.sha256"))


def test_what_ridge_regression_cannot_be_fitted_to_is_refused(table, recipe, monkeypatch, tmp_path):
    store, split = ImageStore.open(table), lmcl.make_split(table, 0, test=0.34)
    with pytest.raises(lmcl.InputError, match="the training part has one content"):
        FrozenTrainer(table.assign(content="one"), split, recipe, store, "cpu")
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path))
    forward = bank.FrozenBackbone.forward
    monkeypatch.setattr(bank.FrozenBackbone, "forward", lambda self, x: tuple(0 * y for y in forward(self, x)))
    with pytest.raises(lmcl.InputError, match="features of test_vit are the same for all crops: check its weights"):
        FrozenTrainer(table, split, recipe, store, "cpu")


def test_a_finished_run_that_started_from_other_weights_is_not_reused(table, recipe, monkeypatch, tmp_path):
    vit, split = "test_vit.r160_in1k", lmcl.make_split(table, 0, test=0.34)
    recipe = replace(recipe, backbone=vit, pretrained=True, epochs=1)
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path))
    with torch.random.fork_rng():
        tensors = timm.create_model("test_vit").state_dict()
    weights_file(vit).parent.mkdir()
    save_file(tensors, weights_file(vit))
    before = lmcl.train(table, split, recipe, tmp_path / "run", "cpu", log=lambda line: None)
    assert lmcl.train(table, split, recipe, tmp_path / "run", "cpu", log=lambda line: None) == before
    save_file({name: 1.1 * value for name, value in tensors.items()}, weights_file(vit))
    with pytest.raises(lmcl.InputError, match="started from other weights .*: put the former back, or train again"):
        lmcl.train(table, split, recipe, tmp_path / "run", "cpu", log=lambda line: None)
    again = lmcl.train(table, split, recipe, tmp_path / "run", "cpu", resume=False, log=lambda line: None)
    assert again["plcc"] != before["plcc"]


def test_an_interrupted_bank_computes_only_what_is_missing(table, recipe, monkeypatch):
    whole = CropBank(ImageStore.open(table), recipe, CPU).features
    path = max(bank.cache_folder().joinpath("features").glob("*.done"), key=lambda path: path.stat().st_mtime)
    content = path.with_suffix(".crops").read_bytes()
    path.write_bytes(b"\1" * 4 + b"\0\0\3" + b"\1" * 5)
    path.with_suffix(".sha256").unlink()
    forward, calls = bank.FrozenBackbone.forward, []
    monkeypatch.setattr(bank.FrozenBackbone, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    lines = []
    again = CropBank(ImageStore.open(table), recipe, CPU, lines.append).features
    assert len(calls) == 2 + 3 and "features of 8 crops of 3 images" in lines[0]  # two, to estimate the time
    assert path.with_suffix(".crops").read_bytes() == content and np.array_equal(whole.tokens, again.tokens)


def test_training_starts_from_ridge_regression(table, recipe):
    split = lmcl.make_split(table, 0, test=0.34)
    trainer = FrozenTrainer(table, split, replace(recipe, saliency_pooling=False), ImageStore.open(table), "cpu")
    rows = torch.from_numpy(split.train)
    every = torch.arange(trainer.bank.boxes.shape[1]).expand(len(rows), -1)
    _, crops, tokens = trainer.bank.gather(rows, every)
    x = trainer.student.standardised(crops).mean(dim=1)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.shape[1]), atol=1e-3, rtol=0)
    fit = ridge(x, trainer.target[rows], torch.arange(len(rows)), components=128)
    score = trainer.student(trainer.student.reduce(trainer.bank.gather(rows, every)[1]), tokens).score
    torch.testing.assert_close(score.mean(dim=1), x @ fit.basis[:, 0] + fit.offset[0], atol=1e-4, rtol=1e-3)
    held_out = (x @ fit.held_out + fit.held_out_offset)[torch.arange(len(rows)), fit.fold]
    torch.testing.assert_close(trainer.reduced[rows, :, 0].mean(dim=1), held_out, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("noise, most", [(0.0, 0.05), (3.0, 1.05)])
def test_ridge_finds_linear_weights_shrinks_noise_and_whitens(noise, most):
    generator = torch.Generator().manual_seed(0)
    x, true = 1 + torch.randn(80, 20, generator=generator), torch.randn(20, generator=generator)
    y = x @ true + 2 + noise * torch.randn(80, generator=generator) * true.norm()
    basis, offset, fold, held_out, held_out_offset = ridge(x, y, torch.arange(80), components=30)
    components = (x @ basis + offset)[:, 1:]
    wanted = torch.diag((torch.arange(30) < 20).float())
    torch.testing.assert_close(components.T @ components / 80, wanted, atol=1e-3, rtol=0)
    unseen = torch.randn(200, 20, generator=generator)
    error = ((unseen @ basis + offset)[:, 0] - unseen @ true - 2).square().mean() / (unseen @ true).var()
    assert error < most
    others = ridge(x[fold != 2], y[fold != 2], torch.arange(64) % 4, components=1)
    if noise == 0:
        torch.testing.assert_close(held_out[:, 2], others.basis[:, 0], atol=0.05, rtol=0.05)


def test_a_run_is_repeatable_and_scores_from_pixels(table, recipe, tmp_path):
    split = lmcl.make_split(table, 0, test=0.34)
    result = lmcl.train(table, split, recipe, tmp_path / "one", "cpu", log=lambda line: None)
    assert result["epoch"] == 2
    lmcl.train(table, split, recipe, tmp_path / "two", "cpu", log=lambda line: None)
    for name in ("predictions.csv", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    scorer = lmcl.load(tmp_path / "one")
    store = ImageStore.open(table)
    banked = Prediction.concatenate(scorer.predict_rows(store, split.test))
    pixels = Prediction.concatenate(scorer.predict(store.image(int(row)) for row in split.test))
    torch.testing.assert_close(banked.score, pixels.score, atol=0.02, rtol=0.02)
    explanation = scorer.explain(store.image(int(split.test[0])).numpy())
    assert explanation.embedding.shape == (banked.boxes.shape[1], recipe.embedding_dim)


def test_gradients_reach_the_heads_and_not_the_linear_path(table, recipe):
    trainer = FrozenTrainer(table, lmcl.make_split(table, 0, test=0.34), recipe, ImageStore.open(table), "cpu")
    before = {name: value.clone() for name, value in trainer.student.state_dict().items()}
    trainer.run_epoch()
    moved = {name for name, value in trainer.student.state_dict().items() if not torch.equal(value, before[name])}
    assert {"score_head.weight", "trunk.0.weight", "embedding_head.weight", "pool.gate.weight"} <= moved
    assert not moved & {"basis", "offset", "mean", "std"}


def test_other_backbones_and_weights_are_refused(table, recipe, monkeypatch):
    with pytest.raises(lmcl.InputError, match="'resnet18' cannot be used frozen: choose a vision transformer"):
        CropBank(ImageStore.open(table), replace(recipe, backbone="resnet18"), CPU)
    monkeypatch.setattr(inference, "weights_digest", lambda name: "4567")
    with pytest.raises(lmcl.InputError, match="SHA-256 4567. are not those .* trained on .0123.: put the right file"):
        inference._check_backbone(replace(recipe, pretrained=True), dict(backbone_weights="0123"))


@pytest.mark.parametrize("network", ["clip-b16", "deit3-s"])
def test_every_fine_tuned_network_trains_and_scores(network, table, tmp_path):
    """With small random weights in place of the named ones."""
    small = dict(pretrained=False, crop_size=32, view_size=None, crops=2, test_crops=2, epochs=1, batch_images=4)
    recipe = lmcl.Recipe.for_benchmark(table, network=network, backbone="test_vit", **small)
    result = lmcl.train(table, lmcl.make_split(table, 0, test=0.34), recipe, tmp_path, "cpu", log=lambda line: None)
    scores = lmcl.load(tmp_path).score([np.zeros((40, 50, 3), dtype=np.uint8)])
    assert np.isfinite(result["plcc"]) and np.isfinite(scores["score"]).all()


def test_the_step_schedule_divides_the_rate_by_ten_every_three_epochs(recipe):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make_schedule(optimizer, replace(recipe, schedule="step"), steps=2)
    rates = []
    for _ in range(14):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 6 + [0.01] * 2)
