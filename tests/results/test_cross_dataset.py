"""Models are tested on images of other benchmarks that they cannot have seen."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

from lmcl_core import InputError, Recipe, load, load_benchmark, make_split
from lmcl_core.data.store import ImageStore
from lmcl_core.results import cross_dataset as cross


def test_a_model_is_tested_on_its_test_part_and_on_benchmarks_with_other_reference_images(table):
    split, tid = make_split(table, 0), table.copy()
    tid.attrs = {**table.attrs, "benchmark": "tid2013"}
    assert np.array_equal(cross.unseen("livec", table, split), split.test)
    assert np.array_equal(cross.unseen("koniq10k", table, split), np.arange(len(table)))
    assert len(cross.unseen("live", tid, split)) == 0


def test_scores_are_kept_and_computed_again_when_the_model_changes(livec, tmp_path, put_model, monkeypatch):
    table, folder = load_benchmark("livec", livec), tmp_path / "run"
    put_model(folder, table)
    rows, others = np.array([7, 2, 5]), np.array([7, 2, 6])
    first = cross.predict(folder, table, rows, "cpu")
    assert list(first["image"]) == list(table["image"].iloc[rows])
    assert list(first["mos"]) == list(table["mos"].iloc[rows])
    expected = load(folder).score([f"{table.attrs['root']}/{image}" for image in first["image"]])["score"]
    assert np.allclose(first["pred"], expected, rtol=1e-4)
    read: list[int] = []
    image = ImageStore.image
    monkeypatch.setattr(ImageStore, "image", lambda store, index: read.append(index) or image(store, index))
    pd.testing.assert_frame_equal(cross.predict(folder, table, rows, "cpu"), first)
    assert read == []
    assert list(cross.predict(folder, table, others, "cpu")["image"]) == list(table["image"].iloc[others])
    put_model(folder, table, seed=1)
    os.utime(folder / "model.safetensors", (0, 0))  # archives restore old times
    read.clear()
    changed = cross.predict(folder, table, rows, "cpu")
    assert len(read) == 3 and not np.allclose(changed["pred"], first["pred"])
    for kept in (folder / "cross").iterdir():
        kept.write_text(kept.read_text()[:-30])
    with pytest.raises(InputError, match="cross/livec-.*csv is damaged .*: delete it"):
        cross.predict(folder, table, rows, "cpu")


def test_the_smaller_short_side_of_model_and_benchmark_is_used():
    assert cross.common_short_side(Recipe(), "livec") is None
    assert cross.common_short_side(Recipe(), "spaq") == 512
    assert cross.common_short_side(Recipe(short_side=384), "spaq") == 384
    assert cross.common_short_side(Recipe(short_side=384), "livec") == 384


def test_agreement_is_signed_and_nan_without_images(table):
    split = make_split(table, 3)
    scores = pd.DataFrame(dict(mos=[1.0, 2, 3, 4], pred=[9.0, 7, 5, 1]))
    row = cross.agreement("livec", split, scores, "koniq10k")
    assert list(row) == ["train", "test", "split", "srcc", "plcc", "n"]
    assert (row["train"], row["test"], row["split"], row["srcc"], row["n"]) == ("livec", "koniq10k", 3, -1.0, 4)
    empty = cross.agreement("livec", split, cross.predict("no run", table, np.empty(0, dtype=int)), "koniq10k")
    assert np.isnan(empty["srcc"]) and np.isnan(empty["plcc"]) and empty["n"] == 0


def test_the_conclusion_compares_the_own_test_part_with_the_others():
    rows = [("livec", "livec", 0.8), ("livec", "spaq", 0.6), ("livec", "koniq10k", 0.7), ("demo", "demo", 0.9)]
    found = pd.DataFrame(rows, columns=["train", "test", "srcc"]).assign(plcc=0.5)
    assert cross.conclusion(found).splitlines() == [
        "trained on livec: SRCC 0.800, PLCC 0.500 on its own test part; "
        "SRCC 0.600 (spaq) to 0.700 (koniq10k) on others",
        "trained on demo: SRCC 0.900, PLCC 0.500 on its own test part; "
        "no other benchmark was scored, so the question stays open",
    ]
    assert "no finished run" in cross.conclusion(found[:0])
