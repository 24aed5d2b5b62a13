"""Images distorted again are scored at every level, by scorers whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lmcl_core import InputError, load_benchmark
from lmcl_core.data.distortions import ALL_DISTORTIONS, LEVELS
from lmcl_core.results import redistortion
from lmcl_core.results.redistortion import order_kept, score_redistorted


class Sharpness:
    """A scorer whose score is the mean difference of neighbouring pixels."""

    recipe = SimpleNamespace(short_side=None)

    def predict(self, images):
        for image in images:
            yield SimpleNamespace(score=torch.tensor([image.float().diff(dim=1).abs().mean()]))

    def to_mos(self, score):
        return score.double().numpy()


@pytest.fixture
def run(livec, tmp_path, monkeypatch):
    """A run folder with predictions of four images, its table, and the names of the images."""
    monkeypatch.setattr(redistortion, "load", lambda folder, device: Sharpness())
    table = load_benchmark("livec", livec)
    images = table["image"].iloc[[1, 4, 6, 8]]
    predictions = pd.DataFrame(dict(image=images, mos=[10.0, 90.0, 50.0, 50.0], pred=0.0))
    predictions.to_csv(tmp_path / "predictions.csv", index=False)
    return tmp_path, table, images.tolist()


def test_the_best_test_images_are_scored_at_every_level_of_every_distortion(run):
    folder, table, images = run
    scored = score_redistorted(folder, table, 3)
    assert len(scored) == 3 * len(ALL_DISTORTIONS) * (LEVELS + 1) and set(scored["image"]) == set(images[1:])
    assert (scored.groupby(["image", "distortion"])["level"].apply(list).map(lambda x: x == list(range(6)))).all()
    assert (scored[scored["level"] == 0].groupby("image")["score"].nunique() == 1).all()
    assert scored.equals(score_redistorted(folder, table, 3))


def test_scores_are_those_of_the_distorted_pixels(run):
    folder, table, _ = run
    order = order_kept(score_redistorted(folder, table, 2)).set_index("distortion")
    assert order.loc["blur", "pairs_in_order"] == 1 and order.loc["blur", "drop"] > 0, "blur lowers sharpness"
    noise = order.loc["white noise"]
    assert noise["pairs_in_order"] < 0.2 and noise["drop"] < 0, "noise raises sharpness"
    assert order.loc["blur", "kind"] == "other"


def test_the_number_of_images_is_limited_to_the_test_part_and_at_least_one(run):
    folder, table, images = run
    assert score_redistorted(folder, table, 100)["image"].nunique() == len(images)
    with pytest.raises(InputError, match="number of images to distort is 0"):
        score_redistorted(folder, table, 0)
    (folder / "predictions.csv").unlink()
    with pytest.raises(InputError, match="lacks predictions.csv"):
        score_redistorted(folder, table, 1)


def test_order_is_counted_over_all_pairs_of_levels_in_each_group():
    def rows(recipe, scores):
        about = dict(image="a", distortion="blur", kind="other", recipe=recipe, split=0)
        return [about | dict(level=level, score=score) for level, score in enumerate(scores)]

    order = order_kept(pd.DataFrame(rows("one", [5, 4, 3]) + rows("two", [5, 6, 3]) + rows("equal", [1, 1, 1])))
    assert order[["recipe", "split", "distortion"]].values.tolist()[:2] == [["one", 0, "blur"], ["two", 0, "blur"]]
    assert order["pairs_in_order"].tolist() == pytest.approx([1, 2 / 3, 0]) and order["drop"].tolist() == [2, 2, 0]
