"""Files are scored in batches and decoded in advance; an unreadable file does not affect the others."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmcl_core import Scorer, load
from lmcl_core.data import colour, images
from lmcl_core.scoring import files as files_module
from lmcl_core.scoring.files import image_files, score_files


@pytest.fixture(scope="module")
def scorer(weights) -> Scorer:
    return load(weights)


@pytest.fixture
def folder(tmp_path) -> Path:
    for n in range(7):
        pixels = np.random.default_rng(n).integers(0, 256, (60 + n, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    return tmp_path


def test_a_file_gets_the_same_score_in_any_batch(scorer, folder):
    files = sorted(folder.iterdir())
    scored = list(score_files(scorer, files, batch_size=3))
    single = scorer.score(files, batch_size=1)
    assert [row.image for row in scored] == [str(file) for file in files]
    assert np.allclose([row.score for row in scored], single["score"], atol=1e-3)
    assert np.allclose([row.percentile for row in scored], single["percentile"], atol=1e-3)
    assert np.ptp([row.score for row in scored]) > 0


def test_unreadable_files_are_reported_in_place_and_the_others_are_scored(scorer, folder):
    files, bad = sorted(folder.iterdir()), [0, 1, 2, 5]
    before = [row.score for row in score_files(scorer, files, batch_size=3)]
    for n in bad:
        files[n].write_bytes(b"no image")
    for n, row in enumerate(score_files(scorer, files, batch_size=3)):
        if n in bad:
            assert files[n].name in row.fault and "unreadable" in row.fault
            assert (row.score, row.percentile, row.pixels, row.prediction) == (None, None, None, None)
        else:
            assert row.fault is None and row.score == pytest.approx(before[n], abs=1e-3)


def test_only_a_few_files_are_read_in_advance(scorer, folder):
    taken = []

    def endless():
        while True:
            taken.append(folder / "0.png")
            yield taken[-1]

    scored = score_files(scorer, endless(), batch_size=2, readers=2)
    for _ in range(4):
        next(scored)
    assert 4 <= len(taken) <= 10
    assert list(score_files(scorer, [])) == []


def test_large_images_are_decoded_one_at_a_time_and_make_small_batches(scorer, folder, monkeypatch):
    sizes, predict = [], Scorer.predict
    monkeypatch.setattr(images, "_LARGE", 0)
    monkeypatch.setattr(files_module, "MOST_BYTES", 20_000)
    monkeypatch.setattr(Scorer, "predict", lambda self, some, n=8: sizes.append(len(some)) or predict(self, some, n))
    real, running, most = images.to_srgb, [], []

    def slow(image, name):
        running.append(name)
        most.append(len(running))
        time.sleep(0.05)
        pixels = real(image, name)
        running.remove(name)
        return pixels

    monkeypatch.setattr(images, "to_srgb", slow)
    assert len(list(score_files(scorer, image_files(folder), batch_size=8, readers=2))) == 7
    assert max(most) == 1 and max(sizes) == 3


@pytest.mark.parametrize("error", [MemoryError(), KeyError("odd")])
def test_whatever_one_file_does_to_a_decoder_is_the_fault_of_this_file(scorer, folder, monkeypatch, error):
    real = images.to_srgb

    def fail(image, name):
        if "3.png" in str(name):
            raise error
        return real(image, name)

    monkeypatch.setattr(images, "to_srgb", fail)
    scored = list(score_files(scorer, sorted(folder.iterdir()), batch_size=3))
    assert [row.fault is None for row in scored] == [n != 3 for n in range(7)]
    assert "3.png" in scored[3].fault and "\n" not in scored[3].fault


def test_an_image_that_the_model_cannot_predict_does_not_stop_its_batch(scorer, folder, monkeypatch):
    real = Scorer.predict

    def predict(self, pixels, batch_size=8):
        if any(one.shape[0] == 63 for one in pixels):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] not enough memory\nmore lines")
        return real(self, pixels, batch_size)

    monkeypatch.setattr(Scorer, "predict", predict)
    scored = list(score_files(scorer, sorted(folder.iterdir()), batch_size=8))
    assert [row.fault is None for row in scored] == [n != 3 for n in range(7)]
    assert "3.png cannot be scored (RuntimeError" in scored[3].fault and "\n" not in scored[3].fault


@pytest.mark.slow
def test_the_largest_image_that_is_accepted_takes_at_most_3_and_a_half_gb(weights, tmp_path):
    """A progressive JPEG file of 178 megapixels, with full chroma, a profile and a rotation, in its own process."""
    path, exif = tmp_path / "large.jpg", Image.Exif()
    exif[0x0112] = 6
    image = Image.effect_noise((446, 400), 80).convert("RGB").resize((13_370, 13_380))
    profile = colour._icc(colour._to_d50((0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)), (2.2,))
    image.save(path, progressive=True, subsampling=0, quality=50, icc_profile=profile, exif=exif)
    del image
    code = (
        "import re, sys; from lmcl_core import load; from lmcl_core.scoring.files import score_files;"
        "(one,) = score_files(load(sys.argv[1]), [sys.argv[2]]); print(one.fault);"
        "print(1024 * int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]))"
    )  # getrusage would count the peak of the process that started this one
    command = [sys.executable, "-c", code, str(weights), str(path)]
    fault, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert fault == "None" and int(peak) < 3.5e9, peak


def test_folders_are_searched_at_any_depth(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "a.JPG").touch()
    (folder / "notes.txt").touch()
    found = image_files(folder)
    assert found == sorted(found) and len(found) == 8 and image_files(folder / "3.png") == [folder / "3.png"]
    assert folder / "deep" / "a.JPG" in found and folder / "notes.txt" not in found
