"""Models judged on the pictures of another benchmark."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pandas as pd
import pytest

from lmcl_core import BENCHMARKS, Recipe, cross, load_benchmark, make_split, train
from lmcl_core.store import PictureStore

TINY = dict(epochs=1, crop_size=32, crops=2, test_crops=2, pretrained=False, batch_images=8)


@pytest.fixture
def table(livec):
    return load_benchmark("livec", livec)


def named(table: pd.DataFrame, name: str) -> pd.DataFrame:
    other = table.copy()
    other.attrs = {**table.attrs, "benchmark": name}
    return other


def test_on_its_own_benchmark_a_model_sees_the_test_part_alone(table):
    split = make_split(table, 0)
    assert np.array_equal(cross.unseen("livec", table, split), split.test)


def test_on_another_benchmark_it_sees_everything(table):
    assert np.array_equal(cross.unseen("koniq10k", table, make_split(table, 0)), np.arange(len(table)))


@pytest.mark.parametrize("trained, tested", [("live", "tid2013"), ("tid2013", "live")])
def test_benchmarks_of_one_picture_collection_are_not_compared(table, trained, tested):
    assert len(cross.unseen(trained, named(table, tested), make_split(table, 0))) == 0
    assert BENCHMARKS[trained].shared_source == BENCHMARKS[tested].shared_source is not None


def test_predictions_are_kept_and_made_anew_when_the_model_changes(table, tmp_path, monkeypatch):
    folder, split = tmp_path / "run", make_split(table, 0, test=0.3)
    train(table, split, Recipe(**TINY), folder, "cpu", log=lambda line: None)
    first = cross.predict(folder, table, split.test, "cpu")
    assert list(first["image"]) == list(table["image"].iloc[split.test])
    ours = pd.read_csv(folder / "predictions.csv")
    assert np.allclose(first["pred"], ours["pred"], rtol=1e-3, atol=1e-2)
    looked: list[int] = []
    real = PictureStore.picture
    monkeypatch.setattr(PictureStore, "picture", lambda store, index: looked.append(index) or real(store, index))
    pd.testing.assert_frame_equal(cross.predict(folder, table, split.test, "cpu"), first)
    assert looked == []
    other = cross.predict(folder, table, split.train[: len(split.test)], "cpu")  # as many, of other pictures
    assert list(other["image"]) == list(table["image"].iloc[split.train[: len(split.test)]])
    other_folder = tmp_path / "other"
    train(table, split, Recipe(**TINY, seed=1), other_folder, "cpu", log=lambda line: None)
    shutil.copy(other_folder / "model.safetensors", folder)
    os.utime(folder / "model.safetensors", (0, 0))  # as archives restore it
    looked.clear()
    changed = cross.predict(folder, table, split.test, "cpu")
    assert looked and not np.allclose(changed["pred"], first["pred"])


def test_no_pictures_are_an_empty_table_and_need_no_model(table, tmp_path):
    assert len(cross.predict(tmp_path / "no run", table, np.empty(0, dtype=np.int64))) == 0


def test_the_smaller_short_side_of_model_and_benchmark_holds():
    assert cross.common_short_side(Recipe(), "livec") is None
    assert cross.common_short_side(Recipe(), "spaq") == 512
    assert cross.common_short_side(Recipe(short_side=384), "spaq") == 384
    assert cross.common_short_side(Recipe(short_side=384), "livec") == 384


def test_agreement_keeps_its_sign_and_is_empty_without_pictures(table):
    split = make_split(table, 3)
    scores = pd.DataFrame(dict(mos=[1.0, 2, 3, 4], pred=[9.0, 7, 5, 1]))
    row = cross.agreement("livec", split, scores, "koniq10k")
    assert (row["train"], row["test"], row["split"], row["srcc"], row["n"]) == ("livec", "koniq10k", 3, -1.0, 4)
    empty = cross.agreement("livec", split, scores[:0], "koniq10k")
    assert np.isnan(empty["srcc"]) and np.isnan(empty["plcc"]) and empty["n"] == 0
