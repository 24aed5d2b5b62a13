"""Scores of pictures distorted anew, with scorers whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lmcl_core import InputError, load_benchmark, redistort
from lmcl_core.distortions import ALL_DISTORTIONS, LEVELS
from lmcl_core.redistort import order_kept, score_redistorted


class Sharpness:
    """Scores a picture by how much neighbouring pixels differ."""

    recipe = SimpleNamespace(short_side=None)

    def looks(self, pictures):
        for picture in pictures:
            yield SimpleNamespace(score=torch.tensor([picture.float().diff(dim=1).abs().mean()]))

    def to_mos(self, score):
        return score.double().numpy()


@pytest.fixture
def run(livec, tmp_path, monkeypatch):
    monkeypatch.setattr(redistort, "load", lambda folder, device: Sharpness())
    table = load_benchmark("livec", livec)
    rows = table.iloc[[1, 4, 6, 8]]
    pd.DataFrame(dict(image=rows["image"], mos=[10.0, 90.0, 50.0, 50.0], pred=0.0)).to_csv(
        tmp_path / "predictions.csv", index=False
    )
    return tmp_path, table, rows["image"].tolist()


def test_the_best_test_pictures_are_scored_at_every_level_of_every_distortion(run):
    folder, table, images = run
    scored = score_redistorted(folder, table, 3)
    assert len(scored) == 3 * len(ALL_DISTORTIONS) * (LEVELS + 1)
    assert set(scored["image"]) == {images[1], images[2], images[3]}
    assert (scored.groupby(["image", "distortion"])["level"].apply(list).map(lambda x: x == list(range(6)))).all()
    untouched = scored[scored["level"] == 0]
    assert (untouched.groupby("image")["score"].nunique() == 1).all()
    assert scored.equals(score_redistorted(folder, table, 3))


def test_scores_are_those_of_the_distorted_pixels(run):
    folder, table, _ = run
    order = order_kept(score_redistorted(folder, table, 2)).set_index("distortion")
    assert order.loc["blur", "pairs_in_order"] == 1 and order.loc["blur", "drop"] > 0  # blur lowers this measure
    assert order.loc["white noise", "pairs_in_order"] < 0.2 and order.loc["white noise", "drop"] < 0  # noise raises it
    assert order["kind"].to_dict()["blur"] == "other"


def test_more_pictures_than_there_are_means_all_and_less_than_one_is_refused(run):
    folder, table, images = run
    assert score_redistorted(folder, table, 100)["image"].nunique() == len(images)
    with pytest.raises(InputError, match="pictures to distort anew are 0"):
        score_redistorted(folder, table, 0)
    (folder / "predictions.csv").unlink()
    with pytest.raises(InputError, match="lacks predictions.csv"):
        score_redistorted(folder, table, 1)


def test_order_is_counted_over_all_pairs_of_levels_in_groups_of_their_own():
    def rows(recipe, scores):
        return [
            dict(image="a", distortion="blur", kind="other", level=n, score=s, recipe=recipe, split=0)
            for n, s in enumerate(scores)
        ]

    scored = pd.DataFrame(rows("one", [5, 4, 3]) + rows("two", [5, 6, 3]))
    order = order_kept(scored)
    assert order[["recipe", "split", "distortion"]].values.tolist() == [["one", 0, "blur"], ["two", 0, "blur"]]
    assert order["pairs_in_order"].tolist() == pytest.approx([1, 2 / 3])
    assert order["drop"].tolist() == [2, 2]


def test_equal_scores_are_not_in_order():
    scored = pd.DataFrame(dict(image="a", distortion="blur", kind="other", level=[0, 1], score=[1.0, 1.0]))
    assert np.isclose(order_kept(scored)["pairs_in_order"][0], 0)
