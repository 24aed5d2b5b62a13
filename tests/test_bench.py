"""What `lmcl bench` measures: that every part runs on small work, and that its sums are right."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from lmcl_core import InputError, Recipe, Split, bench, load_benchmark, rivals
from lmcl_core.bench_report import Report
from lmcl_core.devices import computes_in_bfloat16
from lmcl_core.figures import save
from lmcl_core.peak import peak_megabytes
from lmcl_core.result_figures import costs

SMALL = dict(backbone="resnet18", crop_size=32, crops=2, batch_images=4, embedding_dim=8)


def order(root, **changes):
    return bench.Order(
        **dict(dict(benchmark="livec", data_root=str(root), repeats=1, images=8, device="cpu"), **changes)
    )


@pytest.fixture
def no_children(monkeypatch):
    """Memory is measured in processes of their own, which take seconds to start."""
    monkeypatch.setattr("lmcl_core.peak.peak_megabytes", lambda work, *arguments: 7.0 if work(*arguments) else 0.0)


def test_training_and_store_are_timed_beside_the_plain_ways(livec, no_children):
    found = bench.bench(order(livec, parts=("training", "store"), changes=SMALL), log=lambda line: None)
    assert list(found.columns) == bench.COLUMNS
    by = found.set_index(["part", "contender"])
    assert (
        by.loc[("training", "ours"), "items"] == by.loc[("training", "plain loop"), "items"] == 16
    )  # 2 steps of 4 images of 2 crops
    assert by.loc[("store", "ours"), "items"] == by.loc[("store", "decoding alone"), "items"] >= 8
    ours = by.loc[("training", "ours")]
    assert 0 < ours["waiting"].item() < 1 and np.isnan(by.loc[("training", "plain loop"), "waiting"].item())
    assert (by.loc["training", "utilisation"] > 0).all()
    assert (found["seconds"] > 0).all() and (by.loc["training", "peak_mb"] == 7).all()
    told = bench.summary(found)
    assert told.set_index(["part", "contender"]).loc[("training", "ours"), "ratio"] == 1


def test_scoring_is_timed_one_at_a_time_too(livec, no_children):
    half = ["one at a time, bfloat16"] if computes_in_bfloat16("cpu") else []  # whose imitation is nobody's rival
    found = bench.bench(order(livec, parts=("scoring",)), log=lambda line: None)
    assert found["contender"].tolist() == ["ours", *half, "one at a time, float32"]
    assert found["items"].nunique() == 1 and found["unit"].eq("images").all()


def test_losses_are_timed_at_every_size(livec, no_children, monkeypatch):
    monkeypatch.setattr(bench, "LOSS_SIZES", (16, 32))
    found = bench.bench(order(livec, parts=("loss",)), log=lambda line: None)
    assert set(found["size"]) == {16, 32} and {"ours v1", "ours v2"} <= set(found["contender"])


def test_growth_has_a_curve_for_everything_that_grows(livec, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "CURVES", dict(batch_images=(2, 4), crops=(2, 4), crop_size=(32, 64)))
    found = bench.bench(order(livec, parts=("growth",), changes=SMALL), log=lambda line: None)
    slopes = bench.exponents(found)
    assert len(slopes) == 5 and np.isfinite(slopes["exponent"]).all()
    report = Report(order(livec, parts=("growth",)), tmp_path / "figures")
    report.write(found)
    made = {"repetitions_growth.csv", *(f"growth_growth.{kind}" for kind in ("png", "pdf", "csv"))}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == made and report.growth.equals(slopes)


def test_contenders_take_turns_and_the_first_round_does_not_count():
    called = []
    turns = bench.take_turns({"a": lambda: called.append("a") or 3, "b": lambda: called.append("b") or 5}, 2, calls=2)
    assert called == list("aabb" * 3)
    assert turns["contender"].tolist() == list("abab") and turns["items"].tolist() == [6, 10, 6, 10]
    assert turns["repetition"].tolist() == [0, 0, 1, 1]


def made_up(contender, size, seconds, part="loss", items=10):
    rows = [dict(repetition=n, seconds=value) for n, value in enumerate(seconds)]
    told = dict(part=part, contender=contender, size=size, items=items, unit="losses", peak_mb=1.0)
    return pd.DataFrame(rows).assign(**told, utilisation=0.25, waiting=np.nan)


def test_the_summary_compares_with_the_first_contender_in_each_repetition(tmp_path):
    found = pd.concat([made_up("ours", 4.0, [1, 2, 4]), made_up("other", 4.0, [2, 3, 20])])
    told = bench.summary(found).set_index("contender")
    assert told.loc["ours", "rate"] == 5 and (told.loc["ours", "lowest"], told.loc["ours", "highest"]) == (2.5, 10)
    assert told.loc["other", "ratio"] == 2  # of 2, 1.5 and 5
    save(costs(told.reset_index()), told, tmp_path, "costs")


def test_a_whole_report_takes_its_own_unfinished_files_away_and_no_others(tmp_path):
    report, found = Report(bench.Order(device="cpu"), tmp_path), made_up("ours", 4.0, [1, 2])
    (tmp_path / "costs_training_unfinished.csv").touch()
    for part in report.parts:
        unfinished = (tmp_path / "costs_unfinished.csv").exists()
        assert unfinished == (part != report.parts[0]) and not (tmp_path / "costs.csv").exists()
        report.write(found)
    left = {path.stem for path in tmp_path.glob("*.csv")}
    assert left == {"repetitions", "costs", "costs_training_unfinished"}


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_the_slope_of_the_logarithms(power):
    found = pd.concat([made_up("curve", n, [3 * n**power] * 2, part="growth") for n in (1.0, 4.0, 16.0)])
    assert bench.exponents(found)["exponent"].item() == pytest.approx(power)


@pytest.mark.parametrize(
    "changes, said",
    [(dict(repeats=0), "repeats is 0"), (dict(images=3), "images is 3"), (dict(parts=("los",)), "'los'")],
)
def test_what_cannot_be_measured_is_named(changes, said):
    with pytest.raises(InputError, match=said):
        bench.Order(**changes)


def test_a_folder_that_is_no_deiqt_is_named(livec, tmp_path):
    with pytest.raises(InputError, match="IQA.iqa_dataset is not there"):
        bench.bench(order(livec, parts=("training",), against=str(tmp_path), changes=SMALL), log=lambda line: None)


@pytest.fixture
def deiqt(tmp_path):
    """A stand-in for a checkout of DEIQT: the names that are called, and no more."""
    (tmp_path / "IQA").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "IQA" / "iqa_dataset.py").write_text(
        "import scipy.io, torch\nfrom PIL import Image\n"
        "class LIVECDATASET(torch.utils.data.Dataset):\n"
        "    def __init__(self, root, index, patch_num, transform=None):\n"
        "        names = scipy.io.loadmat(f'{root}/Data/AllImages_release.mat')['AllImages_release'][7:]\n"
        "        self.samples = [(f'{root}/Images/{n[0][0]}', 50.0) for n in names for _ in range(patch_num)]\n"
        "    def __len__(self):\n        return len(self.samples)\n"
        "    def __getitem__(self, n):\n"
        "        return self.transform(Image.open(self.samples[n][0]).convert('RGB')), self.samples[n][1]\n"
    )
    (tmp_path / "IQA" / "build.py").write_text(
        "from torchvision import transforms\n"
        "def build_transform(is_train, config):\n"
        "    return transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])\n"
    )
    (tmp_path / "models" / "deiqt.py").write_text(
        "import torch\ndef build_deiqt(pretrained, infer):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 1))\n"
    )
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("IQA", "models")]:
        del sys.modules[name]


def test_deiqt_s_pipeline_reads_the_same_pictures(livec, deiqt):
    table = load_benchmark("livec", livec)
    wanted = table["image"].iloc[[1, 4, 5]]
    with torch.random.fork_rng(devices=[]):
        contender = rivals.DeiqtTraining(deiqt, table, Split([1, 4, 5], [], [], None), "cpu")
        names = {sample[0].split("/")[-1] for sample in contender.files.samples}
        assert names == {image.split("/")[-1] for image in wanted}
        assert contender() == 16


def test_deiqt_s_memory_is_measured_in_a_process_of_its_own(livec, deiqt):
    table = load_benchmark("livec", livec)
    arguments = ("deiqt", str(deiqt), table, Split(np.arange(8), [], [], None), Recipe(), "cpu")
    assert peak_megabytes(bench._trainer, *arguments) >= 0


def test_a_loss_that_does_not_fit_is_left_out_and_told(livec, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "LOSS_SIZES", (16,))
    monkeypatch.setattr("lmcl_core.peak.peak_megabytes", lambda work, name, *rest: np.inf if name == "ours v1" else 1.0)
    told = []
    found = bench.bench(order(livec, parts=("loss",)), log=told.append)
    assert any("ours v1: left out at 16 embeddings" in line for line in told)
    told = bench.summary(found).set_index("contender")
    assert np.isnan(told.loc["ours v1", "rate"]) and told.loc["ours v1", "peak_mb"] == np.inf
    assert told.loc["ours v2", "rate"] > 0 and np.isnan(told["ratio"]).all()  # there is nothing to compare with
    save(costs(told.reset_index()), told, tmp_path, "costs")


def test_what_does_not_fit_stays_out_of_training_and_scoring(livec, monkeypatch):
    monkeypatch.setattr("lmcl_core.peak.peak_megabytes", lambda work, kind, *rest: np.inf)
    for part in ("training", "scoring"):
        found = bench.bench(order(livec, parts=(part,), changes=SMALL if part == "training" else {}), log=str)
        assert found["seconds"].isna().all() and (found["peak_mb"] == np.inf).all() and len(found) >= 2


def test_every_loss_takes_the_same_shapes_and_has_a_gradient():
    """Of the other libraries' only where they are installed."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(16, 8, generator=generator).requires_grad_() for _ in range(2))
    for name, loss in rivals.losses().items():
        student.grad = None
        loss(student, teacher.detach()).backward()
        assert student.grad.shape == (16, 8) and student.grad.abs().max() > 0, name
