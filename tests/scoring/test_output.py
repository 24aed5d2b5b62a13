"""Rows on standard output and overlays; `lmcl score` as a whole is tested with the command line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lmcl_core import InputError
from lmcl_core.inference import Prediction
from lmcl_core.scoring.files import FileScore
from lmcl_core.scoring.output import DENSITY, WRITERS, check_overlays, save_overlay, score_overlay

ROWS = [dict(image='a "b",\r\n.png', score=51.5, percentile=40.0), dict(image="c.png", score=1.0, percentile=0.0)]


def test_csv_has_one_line_a_row_and_json_is_an_array(capsys, tmp_path):
    with WRITERS["csv"]() as write:
        for row in ROWS[1:]:
            write(row)
            assert capsys.readouterr().out.endswith("c.png,1.0,0.0\n")  # printed immediately
    with WRITERS["json"]() as write:
        for row in ROWS:
            write(row)
    assert json.loads(capsys.readouterr().out) == ROWS
    with WRITERS["json"]():
        pass
    assert json.loads(capsys.readouterr().out) == []
    with WRITERS["csv"]() as write:
        write(ROWS[0])
    (tmp_path / "scores.csv").write_text(capsys.readouterr().out)
    assert pd.read_csv(tmp_path / "scores.csv")["image"].tolist() == ['a "b",\\r\n.png']


@pytest.fixture
def scored() -> FileScore:
    boxes = torch.tensor([[[0, 0, 4, 4], [2, 2, 4, 4]]])
    unused = torch.zeros(1, 2)
    prediction = Prediction(torch.zeros(1), torch.tensor([[1.0, 3.0]]), unused, boxes, torch.ones(1, 2, 2), unused)
    return FileScore("a.png", 50.0, 40.0, None, torch.zeros(8, 6, 3, dtype=torch.uint8), prediction)


class Scorer:
    """A model of LIVEC whose standardised scores are MOS."""

    about = dict(title="LIVEC", axis="MOS", label_kind="mean opinion score, 0 to 100", mos_range=(3.42, 92.43))
    recipe = SimpleNamespace(backbone="resnet")

    def to_mos(self, score):
        return score.numpy()


def test_an_overlay_shows_the_mean_score_of_the_crops_that_cover_a_pixel(scored):
    figure = score_overlay(Scorer(), scored)
    mean = np.ma.filled(figure.axes[2].images[1].get_array(), np.nan)
    assert mean.shape == (8, 6) and (mean[0, 0], mean[3, 3], mean[5, 5]) == (1, 2, 3) and np.isnan(mean[7, 5])
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "score 50.0, percentile 40",
        "saliency",
        "crop scores 1.0 to 3.0",
    ]


def test_overlays_of_a_model_share_one_scale_of_scores_and_one_of_saliency(scored):
    figure = score_overlay(Scorer(), scored)
    assert figure.axes[2].images[1].get_clim() == (3.42, 92.43)  # not the range of this image's crops
    assert figure.axes[1].images[1].get_clim() == (0, DENSITY)
    assert float(figure.axes[1].images[1].get_array().max()) == 4.0  # 4 cells, each of density 1 in the fixture
    assert [axes.get_xlabel() for axes in figure.axes[3:5]] == ["density, 1 = uniform", "MOS of LIVEC"]


def test_overlays_are_numbered_and_not_saved_among_the_scored_images(scored, tmp_path):
    check_overlays(tmp_path / "new", [tmp_path / "images"])
    assert save_overlay(tmp_path / "new", Scorer(), scored, 7)
    assert Image.open(tmp_path / "new" / "00007_a.png").width > 100
    for folder, message in ((tmp_path / "new" / "below", "inside"), (tmp_path / "new" / "00007_a.png", "a file")):
        with pytest.raises(InputError, match=message):
            check_overlays(folder, [tmp_path / "new"])
