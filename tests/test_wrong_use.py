"""Arguments of wrong types, and empty ones, are named in one line by the public functions."""

from __future__ import annotations

import pandas as pd
import pytest

import lmcl_core as lmcl
from lmcl_core import InputError
from lmcl_core.scoring.bundle import bundle

TABLE = pd.DataFrame(dict(image=[f"{n}.png" for n in range(20)], mos=range(20), content=[str(n) for n in range(20)]))
TABLE.attrs = dict(benchmark="livec", root="/nowhere", label_kind="people's mean opinion")
SPLIT, RECIPE = lmcl.make_split(TABLE, 0), lmcl.Recipe()
SCORER = lmcl.Scorer.__new__(lmcl.Scorer)  # refuses before it uses a model
SCORER.about, SCORER.recipe, SCORER.model = dict(largest_short_side=100), RECIPE, None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: lmcl.load_benchmark("livec", 3), "3 is not a path, but of type int"),
        (lambda: lmcl.make_split([1, 2], 0), "the table is of type list: make it with load_benchmark"),
        (lambda: lmcl.make_split(TABLE[["image"]], 0), "the table lacks content: make it with load_benchmark"),
        (lambda: lmcl.make_split(TABLE, 0, test="0.2"), "shares are test='0.2'"),
        (lambda: lmcl.data_hash(TABLE.assign(image="no.png")), "missing image /nowhere/no.png: unpack"),
        (lambda: lmcl.train(None, SPLIT, RECIPE, "runs"), "the table is of type NoneType"),
        (lambda: lmcl.train(TABLE, 0, RECIPE, "runs"), "the split is of type int: make it with make_split"),
        (lambda: lmcl.train(TABLE, SPLIT, "lmcl", "runs"), "recipe is 'lmcl': pass a Recipe"),
        (lambda: lmcl.load(None), "None is not a path"),
        (lambda: lmcl.load(""), "weights is empty"),
        (lambda: SCORER.score([""]), "the path of an image is ''"),
        (lambda: SCORER.score([None]), "cannot read NoneType"),
        (lambda: SCORER.score(["a.png"], batch_size="8"), "batch_size is '8'"),
        (lambda: bundle("", "mine"), "run is empty"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        call()
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [], "nothing was written"
