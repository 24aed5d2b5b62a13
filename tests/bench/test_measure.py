"""`lmcl bench`: every part runs on small data, and its tables are right."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import loadmat
from torchvision import transforms

from lmcl_core import InputError, load_benchmark
from lmcl_core.bench import measure, rivals
from lmcl_core.results import plots

SMALL = dict(backbone="test_resnet", crop_size=32, crops=2, batch_images=4, embedding_dim=8)


@pytest.fixture
def bench(livec, tmp_path, monkeypatch):
    """Run one part on eight images and return all repetitions. Memory is not measured: its processes start slowly."""
    monkeypatch.setattr(measure, "_peak_in_process", lambda make: 7.0)

    def run(*parts, **options):
        options = dict(data_root=livec, repeats=1, images=8, device="cpu", log=lambda line: None) | options
        measure.bench(tmp_path / "bench", "livec", parts=parts, **options)
        return pd.read_csv(tmp_path / "bench" / f"repetitions_{'-'.join(parts)}.csv")

    return run


@pytest.mark.slow
def test_training_and_store_are_timed_beside_plain_loops(bench):
    found = bench("store", "training", changes=SMALL).set_index(["part", "contender"])
    assert found.index.tolist() == [
        *(("store", name) for name in ("ours", "decoding alone")),
        *(("training", name) for name in ("ours", "plain loop")),
    ]
    assert found["items"].tolist() == [8, 8, 16, 16]  # training: 2 steps of 4 images with 2 crops
    assert (found["seconds"] > 0).all() and found["peak_mb"].tolist()[2:] == [7, 7]
    waiting = found.loc["training", "waiting"]
    assert 0 < waiting["ours"] < 1 and np.isnan(waiting["plain loop"])


@pytest.mark.slow
def test_features_of_a_frozen_backbone_are_timed(bench):
    frozen = dict(backbone="test_vit", crop_size=64, scales=(1.0, 1.5), frozen=True)
    found = bench("features", changes=frozen).set_index("contender")
    assert found.index.tolist() == ["ours", "one at a time"] and set(found["unit"]) == {"views"}
    assert found["items"].tolist() == [24, 24]  # of each of 8 images the whole view and a crop at both scales


@pytest.mark.slow
def test_losses_are_timed_at_every_size_and_scoring_one_image_at_a_time_too(bench, monkeypatch):
    monkeypatch.setattr(measure, "LOSS_SIZES", (16, 32))
    found = bench("scoring", "loss").set_index("part")
    assert set(found["size"]["loss"]) == {16, 32} and {"ours v1", "ours v2"} <= set(found["contender"])
    assert found["contender"]["scoring"].tolist() == ["ours", "one at a time"]
    assert found["items"]["scoring"].tolist() == [8, 8]


@pytest.mark.slow
def test_growth_has_a_finite_exponent_for_each_quantity(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(rivals, "load", lambda weights, device: None)
    monkeypatch.setattr(rivals, "score_files", lambda scorer, files: files)
    monkeypatch.setattr(measure, "CURVES", dict(batch_images=(2, 4), crops=(2, 4), crop_size=(32, 64)))
    bench("growth", changes=SMALL)
    files = {"repetitions_growth.csv", *(f"growth_growth.{kind}" for kind in ("png", "pdf", "csv"))}
    assert {path.name for path in (tmp_path / "bench").iterdir()} == files
    slopes = pd.read_csv(tmp_path / "bench" / "growth_growth.csv").groupby("contender")["exponent"].first()
    assert len(slopes) == 5 and np.isfinite(slopes).all()


@pytest.mark.slow
def test_finished_parts_are_kept_until_the_last_part_is_done(bench, monkeypatch, tmp_path):
    unfinished = tmp_path / "bench" / "repetitions_store-loss_unfinished.csv"

    def stop(*arguments):
        assert pd.read_csv(unfinished)["part"].tolist() == ["store", "store"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(measure.PARTS, "loss", stop)
        bench("store", "loss")
    assert [path.name for path in (tmp_path / "bench").iterdir()] == [unfinished.name]
    monkeypatch.setattr(measure, "LOSS_SIZES", (16,))
    assert set(bench("store", "loss")["part"]) == {"store", "loss"} and not unfinished.exists()


def test_contenders_take_turns_and_the_warm_up_does_not_count():
    called = []
    makers = {"a": lambda: lambda: called.append("a") or 3, "b": lambda: lambda: called.append("b") or 5}
    turns = measure.compare(makers, repeats=2, calls=2)
    assert called == list("aabb" * 3)
    assert turns["contender"].tolist() == list("abab") and turns["items"].tolist() == [6, 10, 6, 10]
    assert turns["repetition"].tolist() == [0, 0, 1, 1]


@pytest.mark.slow
def test_peak_memory_is_that_of_the_calls_in_a_process_of_its_own():
    copy_64_megabytes = partial(partial, bytearray, b"x" * 64_000_000)
    assert measure._peak_in_process(copy_64_megabytes) == pytest.approx(64, abs=4)


def repetitions(contender, size, seconds, part="loss"):
    rows = pd.DataFrame(dict(repetition=range(len(seconds)), seconds=seconds))
    return rows.assign(part=part, contender=contender, size=size, items=10, unit="losses", peak_mb=1.0, waiting=np.nan)


def test_the_summary_compares_with_the_first_contender_in_each_repetition():
    for size in [4.0, np.nan]:
        found = pd.concat([repetitions("ours", size, [1, 2, 4]), repetitions("other", size, [2, 3, 20])])
        table = measure.summary(found).set_index("contender")
        assert table.loc["ours", "rate"] == 5 and (table.loc["ours", "lowest"], table.loc["ours", "highest"]) == (
            2.5,
            10,
        )
        assert table.loc["ours", "ratio"] == 1 and table.loc["other", "ratio"] == 2  # median of 2, 1.5 and 5
        assert plots.costs(table.reset_index()).axes[0].get_title(loc="left").endswith("losses per second")


@pytest.mark.slow
def test_a_single_bar_is_a_row_of_the_table_and_no_figure(tmp_path):
    about = dict(machine="a CPU")
    measure.write(repetitions("ours", np.nan, [1, 2, 4]), about, tmp_path, "_one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["costs_one.csv", "repetitions_one.csv"]
    both = pd.concat([repetitions("ours", np.nan, [1, 2, 4]), repetitions("other", np.nan, [2, 3, 20])])
    measure.write(both, about, tmp_path, "_two")
    assert (tmp_path / "costs_two.png").is_file()


def test_the_exponent_is_the_slope_of_the_logarithms():
    for power in [0.5, 1.0, 2.0]:
        curve = pd.concat([repetitions("curve", n, [3 * n**power] * 2) for n in (1.0, 4.0, 16.0)])
        assert measure.exponents(curve)["exponent"].item() == pytest.approx(power)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(images=-5), "^images is -5: .* 8$"),
        (dict(parts=["los"]), "'los': did you mean 'loss'"),
        (dict(parts=["loss"], changes=dict(crops=2)), "--set has no effect on loss"),
        (dict(against="x"), "DEIQT is timed on LIVEC only"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        measure.bench(tmp_path / "bench", **options)
    assert not (tmp_path / "bench").exists()


class Livec(torch.utils.data.Dataset):
    """A stand-in for DEIQT's dataset, which reads the official folder itself."""

    def __init__(self, root, index, patch_num, transform=None):
        names = loadmat(f"{root}/Data/AllImages_release.mat")["AllImages_release"][7:]
        self.samples = [(f"{root}/Images/{name[0][0]}", 50.0) for name in names for _ in range(patch_num)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, n):
        return self.transform(Image.open(self.samples[n][0]).convert("RGB")), self.samples[n][1]


@pytest.mark.slow
def test_deiqt_s_pipeline_trains_on_the_images_of_the_table(livec, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="name a checkout of github.com/narthchin/DEIQT"):
        rivals.import_deiqt(tmp_path)
    small = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])
    dataset = SimpleNamespace(LIVECDATASET=Livec)
    build = SimpleNamespace(build_transform=lambda is_train, config: small)

    def build_deiqt(pretrained, infer):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 1))

    models = SimpleNamespace(build_deiqt=build_deiqt)
    monkeypatch.setattr(rivals, "import_deiqt", lambda folder: [dataset, build, models])
    monkeypatch.setattr(rivals, "DataLoader", lambda files, **options: seen.append(files) or loader(files, **options))
    seen, loader, table = [], torch.utils.data.DataLoader, load_benchmark("livec", livec)
    chosen = table.iloc[[1, 4, 5]]
    chosen.attrs = table.attrs
    with torch.random.fork_rng(devices=[]):
        assert rivals.deiqt_training("a checkout", chosen, "cpu")() == 16
    names = {path.split("/")[-1] for path, _ in seen[0].samples}
    assert names == {image.split("/")[-1] for image in chosen["image"]}
