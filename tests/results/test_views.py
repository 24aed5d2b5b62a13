"""The views of notebook 08 hold what the method computes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from lmcl_core import InputError, LocalManifoldContrastiveLoss, QualityModel, Recipe, load
from lmcl_core.hard_examples import Features
from lmcl_core.results import views
from lmcl_core.runs.model_file import pack

RECIPE = Recipe(pretrained=False, crop_size=32, crops=4, test_crops=3, embedding_dim=8, precision="32-true")


def picture(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def features(points, mos) -> Features:
    """Features of images a, b, c, ... at given angles on a circle."""
    angle = np.deg2rad(np.array(points, dtype=float))
    feature = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    names = np.array([chr(ord("a") + n) for n in range(len(points))])
    return Features(names, np.array(mos, dtype=float), np.array(mos, dtype=float) + 1, feature, feature[:, None])


@pytest.fixture
def table(table) -> pd.DataFrame:
    """The table of thirty images, with the range of its labels, which a model file records."""
    table.attrs["mos_range"] = (0, 100)
    return table


@pytest.fixture
def model(tmp_path) -> views.CropModel:
    return views.crop_model(tmp_path / "no run", RECIPE)


def test_the_terms_are_those_of_the_loss_on_the_embeddings_of_the_crops(model):
    pictures = [picture(0), picture(1, 90, 70)]
    view = views.view_crops(model, pictures, seed=3, crops=4, scales=(1.0, 1.5))
    again = views.view_crops(model, pictures[:1], seed=3, crops=4, scales=(1.0, 1.5))
    assert view.boxes.shape == (4, 4) and view.boxes[:, 2].tolist() == [32, 48, 32, 48]
    np.testing.assert_array_equal(again.boxes, view.boxes)
    np.testing.assert_allclose(again.similarity, view.similarity, atol=1e-5)
    np.testing.assert_allclose(np.diag(view.similarity), 1, atol=1e-5)
    assert view.salient == int(view.density.argmax()) and view.saliency.sum() == pytest.approx(1, rel=1e-5)
    # alone in its batch, the picture has intra-image terms only: they follow from its similarities
    loss = LocalManifoldContrastiveLoss(RECIPE.temperature, RECIPE.intra_weight, "v1")
    z = torch.linalg.cholesky(torch.from_numpy(again.similarity).double() + 1e-6 * torch.eye(4))[None]
    wanted = loss(z, z, torch.tensor([view.salient]))
    assert again.terms["intra-image (5)"] == pytest.approx(float(wanted.intra), rel=1e-3)
    assert again.terms["inter-image (4)"] == 0 < view.terms["inter-image (4)"]
    assert list(view.table()["salient"]) == [k == view.salient for k in range(4)]
    assert len(views.draw_crops(pictures[0], view, model.title).axes) == 4


def test_other_seeds_move_the_crops_and_wrong_numbers_are_refused(model):
    one, other = (views.view_crops(model, [picture(0)], seed, 2, (1.0,)).boxes for seed in (0, 1))
    assert (one != other).any()
    with pytest.raises(InputError, match="CropSampler"):
        views.view_crops(model, [picture(0)], 0, 2, (-1.0,))


@pytest.mark.slow
def test_a_model_is_that_of_the_run_or_a_new_one_and_the_title_says_which(model, tmp_path, table, put_model):
    assert model.title.startswith("a new model")
    folder = tmp_path / "demo" / "lmcl" / "split-00"
    folder.mkdir(parents=True)
    put_model(folder, table, seed=7)
    trained = views.crop_model(folder, RECIPE)
    assert trained.title == "trained run demo/lmcl/split-00" and isinstance(trained.model, QualityModel)
    weight = load(folder).model.score_head.weight
    assert torch.equal(trained.model.score_head.weight, weight)
    (tmp_path / "packed").mkdir()
    pack(folder, tmp_path / "packed" / "model.safetensors")
    with pytest.raises(InputError, match="packed, without an embedding head"):
        views.crop_model(tmp_path / "packed", RECIPE)


@pytest.mark.slow
def test_levels_are_explained_from_the_undistorted_picture_on(tmp_path, table, put_model):
    scorer = load(put_model(tmp_path, table))
    levels = views.explain_levels(scorer, picture(0), "blur")
    assert len(levels) == 6 and levels[0].score == pytest.approx(scorer.score([picture(0)])["score"][0])
    spread = [float(one.pixels.std()) for one in levels]
    assert spread == sorted(spread, reverse=True), "every level blurs more"
    title = views.draw_level(levels, "blur", 2).get_suptitle()
    assert title == f"blur, level 2: score {levels[2].score:.1f}, percentile {levels[2].percentile:.0f}"
    assert views.draw_level(levels, "blur", 0).get_suptitle().startswith("undistorted: score")


def test_a_pair_that_both_spaces_find_is_one_row_with_a_rank_in_each():
    without = features([0, 2, 90, 95, 180, 270], [10, 50, 10, 60, 20, 30])
    with_loss = features([0, 40, 90, 95, 180, 270], [10, 50, 10, 60, 20, 30])
    pairs = views.mined_pairs({"without": without, "with": with_loss}, 1, 1.0, count=2)
    assert dict(zip(zip(pairs["a"], pairs["b"]), pairs["mined"]))[2, 3] == "without and with"
    assert not pairs.duplicated(["a", "b"]).any() and (pairs["a"] < pairs["b"]).all()
    pair = pairs.set_index(["a", "b"]).loc[(0, 1)]
    assert pair["rank_without"] < pair["rank_with"], "40 degrees are farther than 2"


def test_the_partner_is_the_closest_hard_pair_else_the_nearest_neighbour():
    space = features([0, 1, 5, 180, 182], [10, 11, 90, 50, 51])
    found = views.partners(space, neighbours=1, gap=1.0)
    assert found["partner"].tolist() == ["b", "c", "b", "e", "d"], "b is the nearest neighbour of c, not c that of b"
    assert found["hard"].tolist() == [False, True, True, False, False]


def test_pairs_and_umap_show_the_pictures_of_their_images():
    read = {name: picture(n) for n, name in enumerate("abcde")}
    space = features([0, 1, 5, 180, 182], [10, 11, 90, 50, 51])
    spaces = {"without": space, "with": space}
    pairs = views.mined_pairs(spaces, 2, 1.0, count=5)
    figure = views.draw_pair(read.__getitem__, spaces, pairs, 1)
    assert figure.get_suptitle().startswith(f"pair 1 of {len(pairs)}, found in without and with")
    for axes, at in zip(figure.axes, pairs.loc[0, ["a", "b"]]):
        np.testing.assert_array_equal(axes.images[0].get_array(), read["abcde"[at]])
        assert axes.get_title().startswith(f"label {space.mos[at]:.1f}\npredicted {space.pred[at]:.1f} (without)")
    table = pd.DataFrame(dict(recipe="without", image=list("abcde"), x=range(5), y=range(5), mos=space.mos))
    drawn = views.draw_umap(read.__getitem__, table.join(views.partners(space, 2, 1.0)), "MOS").axes
    np.testing.assert_array_equal(drawn[1].images[0].get_array(), read["a"])
    np.testing.assert_array_equal(drawn[2].images[0].get_array(), read["c"])
