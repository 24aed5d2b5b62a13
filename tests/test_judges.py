"""Judges of saliency: the same crops and scores, weighed by whom the row names."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lmcl_core import InputError, judges, load, load_benchmark, make_split, metrics
from lmcl_core.looking import Look
from lmcl_core.model_file import percentiles
from lmcl_core.store import PictureStore


@pytest.fixture
def table(livec):
    """The tiny benchmark, of pictures large enough for crops to lie apart."""
    for path in (livec / "ChallengeDB_release" / "Images").glob("*.*"):
        Image.open(path).resize((500, 400)).save(path)
    return load_benchmark("livec", livec)


@pytest.fixture(scope="module")
def scorer():
    return load("livec")


class Corner:
    """Looks at the upper left corner alone."""

    def __call__(self, images):
        assert images.shape == (1, 3, 224, 224) and images.dtype == torch.uint8
        saliency = torch.zeros(1, 16, 16)
        saliency[0, 0, 0] = 1
        return SimpleNamespace(saliency=saliency)


def looks(scorer, table) -> list[Look]:
    store = PictureStore.open(table, scorer.recipe.short_side)
    return [scorer.look_at([store.picture(n)])[0] for n in range(len(table))]


def test_the_model_itself_is_what_the_scorer_says_and_nobody_is_the_plain_mean(scorer, table):
    found = judges.compare(scorer, table, range(len(table)), Corner()).set_index("judge")
    assert found.index.tolist() == ["the model itself", judges.OTHER, "nobody"]
    seen = looks(scorer, table)
    for judge, score in (
        ("the model itself", torch.cat([look.score for look in seen])),
        ("nobody", torch.cat([look.crop_scores.mean(dim=1) for look in seen])),
    ):
        expected = metrics(pred=score.double().numpy(), mos=table["mos"].to_numpy())
        assert found.loc[judge, "plcc"] == pytest.approx(expected["plcc"], abs=1e-6)
        assert found.loc[judge, "srcc"] == pytest.approx(expected["srcc"])
    assert found.loc["the model itself", "same_salient"] == 1 and found.loc["nobody", "contrast"] == 1
    assert np.isnan(found.loc["nobody", "plcc_salient"])


def test_the_other_judge_chooses_by_its_own_map(scorer, table):
    row = judges.compare(scorer, table, range(len(table)), Corner()).set_index("judge").loc[judges.OTHER]
    seen, corner = looks(scorer, table), []
    for look in seen:  # the smallest box in the corner is the densest one
        holding = [n for n, box in enumerate(look.boxes[0].tolist()) if box[:2] == [0, 0]]
        corner.append(min(holding, key=lambda n: look.boxes[0, n, 2]))
    alone = torch.cat([look.crop_scores[:, n] for look, n in zip(seen, corner)]).double().numpy()
    assert row["plcc_salient"] == pytest.approx(metrics(pred=alone, mos=table["mos"].to_numpy())["plcc"], abs=1e-6)
    own = [int(look.weights.argmax()) for look in seen]
    assert row["same_salient"] == pytest.approx(np.mean([a == b for a, b in zip(own, corner)]))
    assert row["contrast"] > 3 and row["pictures"] == len(table)


def test_a_model_that_may_have_seen_the_pictures_judges_none_of_them(scorer, table, monkeypatch):
    split = make_split(table, 0)
    with pytest.raises(InputError, match="did not learn from exactly the training part of split 0 of livec"):
        judges.check_trained_on(scorer, table, split)
    learnt = dict(scorer.about, mos_percentiles=percentiles(table["mos"].to_numpy()[split.train]))
    monkeypatch.setattr(scorer, "about", learnt)
    judges.check_trained_on(scorer, table, split)


def test_the_command_writes_the_table(livec, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LMCL_FIGURES", str(tmp_path))
    monkeypatch.setattr(judges, "QualityModel", lambda *args, **options: SimpleNamespace(eval=Corner))
    monkeypatch.setattr(judges, "make_split", lambda table, index: SimpleNamespace(test=np.arange(len(table))))
    checked = []
    monkeypatch.setattr(judges, "check_trained_on", lambda scorer, table, split: checked.append(split))
    judges.main(["livec", str(livec)])
    assert len(checked) == 1
    assert "the model itself" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "livec" / "judges.csv")) == 3
    for arguments, message in ((["livec"], "use: python"), (["livec", str(tmp_path / "nowhere")], "missing_folder")):
        with pytest.raises(SystemExit) as ended:
            judges.main(arguments)
        assert ended.value.code == 2 and message in capsys.readouterr().err
