"""Files are scored in batches, decoded ahead; a bad one takes nothing from the others."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmcl_core import InputError, QualityModel, Recipe, Scorer, scoring
from lmcl_core.score_files import picture_files, score_files

RECIPE = Recipe(pretrained=False, crop_size=32, test_crops=3, precision="32-true")
ABOUT = dict(
    benchmark="livec",
    mos_range=[0, 100],
    mos_mean=55.0,
    mos_std=12.0,
    mos_percentiles=list(range(101)),
    largest_short_side=120,
)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Scorer(QualityModel(pretrained=False, crop_size=32).eval(), RECIPE, ABOUT, torch.device("cpu"))


@pytest.fixture
def folder(tmp_path) -> Path:
    for n in range(7):
        pixels = np.random.default_rng(n).integers(0, 256, (60 + n, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    return tmp_path


def test_every_file_gets_the_score_it_gets_alone(scorer, folder):
    files = sorted(folder.iterdir())
    scored = list(score_files(scorer, files, batch_size=3))
    alone = scorer.score(files, batch_size=1)
    assert [row.image for row in scored] == [str(file) for file in files]
    assert np.allclose([row.score for row in scored], alone["score"], atol=1e-3)
    assert np.allclose([row.percentile for row in scored], alone["percentile"], atol=1e-3)
    assert np.ptp([row.score for row in scored]) > 0


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_a_broken_file_is_told_in_its_place_and_the_rest_is_scored(scorer, folder, bad):
    files = sorted(folder.iterdir())
    whole = [row.score for row in score_files(scorer, files, batch_size=3)]
    files[bad].write_bytes(b"no picture")
    scored = list(score_files(scorer, files, batch_size=3))
    assert files[bad].name in scored[bad].fault and "unreadable" in scored[bad].fault
    assert scored[bad].score is None and scored[bad].look is None
    good = [n for n in range(7) if n != bad]
    assert np.allclose([scored[n].score for n in good], [whole[n] for n in good], atol=1e-3)


def test_a_batch_of_broken_files_alone_ends_nothing(scorer, folder):
    files = sorted(folder.iterdir())
    for file in files[:3]:
        file.write_bytes(b"")
    scored = list(score_files(scorer, files, batch_size=3))
    assert [row.fault is None for row in scored] == [False] * 3 + [True] * 4


def test_no_file_gives_no_answer(scorer):
    assert list(score_files(scorer, [])) == []


def test_only_a_few_files_are_read_ahead(scorer, folder):
    asked = []

    def endless():
        while True:
            asked.append(folder / "0.png")
            yield asked[-1]

    answers = score_files(scorer, endless(), batch_size=2, readers=2)
    for _ in range(4):
        next(answers)
    assert 4 <= len(asked) <= 10


@pytest.mark.parametrize("large, at_once", [(0, 1), (10**6, 2)])
def test_of_large_pictures_one_at_a_time_is_decoded(scorer, folder, monkeypatch, large, at_once):
    monkeypatch.setattr(scoring, "_LARGE", large)
    real, now, most = scoring.to_rgb, [], []

    def slow(picture, name):
        now.append(name)
        most.append(len(now))
        time.sleep(0.05)
        pixels = real(picture, name)
        now.remove(name)
        return pixels

    monkeypatch.setattr(scoring, "to_rgb", slow)
    assert len(list(score_files(scorer, picture_files([folder]), batch_size=2, readers=2))) == 7
    assert max(most) == at_once


def test_pictures_larger_than_those_of_the_training_benchmark_are_brought_to_their_size(scorer, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 240, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    (scored,) = score_files(scorer, [tmp_path / "large.png"])
    assert tuple(scored.picture.shape) == (150, 120, 3)
    assert int(scored.look.boxes[..., 1].max()) < 120


@pytest.mark.parametrize("name", ["batch_size", "readers"])
def test_a_number_below_one_is_refused_before_anything_is_read(scorer, name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        score_files(scorer, [], **{name: 0})


def test_folders_are_searched_at_any_depth_and_no_file_comes_twice(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "a.JPG").touch()
    (folder / "notes.txt").touch()
    found = list(picture_files([folder / "3.png", folder, folder / "deep"]))
    assert found[0] == folder / "3.png" and len(found) == len(set(found)) == 8
    assert folder / "deep" / "a.JPG" in found and folder / "notes.txt" not in found


def test_links_are_followed_once_and_broken_ones_are_told(folder, tmp_path_factory, scorer):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(folder / "3.png", elsewhere / "far.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "round").symlink_to(folder)
    (folder / "lost.png").symlink_to(folder / "nowhere.png")
    found = list(picture_files([folder]))
    assert folder / "linked" / "far.png" in found and folder / "lost.png" in found
    assert not any("round" in path.parts for path in found)
    faults = {Path(scored.image).name: scored.fault for scored in score_files(scorer, found) if scored.fault}
    assert "lost.png" in faults


def test_a_folder_that_may_not_be_opened_is_told(folder, scorer, monkeypatch):
    (folder / "closed").mkdir()
    look = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(picture_files([folder]))
    assert folder / "closed" in found and len(found) > 1
    (scored,) = score_files(scorer, [folder / "closed"])
    assert scored.score is None and "closed" in scored.fault
