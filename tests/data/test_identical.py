"""Byte-identical files of different contents are found and counted on both sides of a split."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from lmcl_core import load_benchmark, make_split
from lmcl_core.data.identical import identical_images, seen_in_training


@pytest.fixture
def table(livec):
    """The tiny benchmark; its second image is also its fifth."""
    table = load_benchmark("livec", livec)
    shutil.copy(livec / table["image"][1], livec / table["image"][4])
    return table


def test_a_copy_of_a_file_is_found_and_nothing_else(table):
    assert identical_images(table).to_numpy().tolist() == [[table["image"][1], table["image"][4]]]
    same = table.assign(content="the same")
    same.attrs = table.attrs
    assert identical_images(same).empty


def test_test_images_whose_file_is_trained_on_are_found_in_both_directions():
    names = [f"{n}.jpg" for n in range(20)]
    table = pd.DataFrame(dict(image=names, content=names, mos=np.arange(20.0)))
    split = make_split(table, 0)
    (a, b, c, d), (x, y) = (table["image"].to_numpy()[part[:n]] for part, n in ((split.test, 4), (split.train, 2)))
    pairs = pd.DataFrame(dict(image=[a, y, c], other=[x, b, d]))  # the last pair is within the test part
    assert seen_in_training(table, split, pairs).tolist() == split.test[:2].tolist()
    assert seen_in_training(table, split, pairs.head(0)).size == 0
