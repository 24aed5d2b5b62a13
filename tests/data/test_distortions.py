"""Distortions are deterministic, and displaced patches change structure but not colour and contrast."""

from __future__ import annotations

import numpy as np
import pytest

from lmcl_core.data.demo import load_photographs
from lmcl_core.data.distortions import ALL_DISTORTIONS, DISTORTIONS, KINDS, LEVELS

PHOTOGRAPH = load_photographs()["coffee"][:256, :256]


def distort(name: str, level: int, seed: int = 0, image: np.ndarray = PHOTOGRAPH) -> np.ndarray:
    return ALL_DISTORTIONS[name](image, level, np.random.default_rng(seed))


def test_every_distortion_has_a_kind_and_the_demo_has_those_of_csiq():
    assert set(DISTORTIONS) == {"white noise", "JPEG", "JPEG 2000", "blur", "contrast", "pink noise"}
    assert set(KINDS) == set(ALL_DISTORTIONS) == {*DISTORTIONS, "displaced patches"}


@pytest.mark.parametrize("name", list(ALL_DISTORTIONS))
def test_a_distortion_is_the_same_for_the_same_seed_and_leaves_its_input_unchanged(name):
    before = PHOTOGRAPH.copy()
    pixels = distort(name, 2)
    assert np.array_equal(pixels, distort(name, 2)) and np.array_equal(PHOTOGRAPH, before)
    assert pixels.shape == PHOTOGRAPH.shape and pixels.dtype == np.uint8 and not np.array_equal(pixels, PHOTOGRAPH)
    random = "noise" in name or name == "displaced patches"
    assert np.array_equal(pixels, distort(name, 2, seed=1)) is not random


def test_pink_noise_is_coarser_than_white_noise():
    grey = np.full((128, 128, 3), 128, dtype=np.uint8)

    def neighbour_correlation(name: str) -> float:
        pixels = distort(name, 2, image=grey)[..., 0].astype(float)
        return np.corrcoef(pixels[:, :-1].ravel(), pixels[:, 1:].ravel())[0, 1]

    assert neighbour_correlation("pink noise") > 0.5 and abs(neighbour_correlation("white noise")) < 0.1


def test_displaced_patches_keep_brightness_and_contrast():
    worst = distort("displaced patches", LEVELS - 1).astype(float)
    assert abs(worst.mean() - PHOTOGRAPH.mean()) < 2 and abs(worst.std() - PHOTOGRAPH.std()) < 3
    assert (worst != PHOTOGRAPH).any(axis=2).mean() > 0.25
