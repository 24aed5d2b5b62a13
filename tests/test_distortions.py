"""The distortions that the demo does not have; those it has are tested with it."""

from __future__ import annotations

import numpy as np
import pytest

from lmcl_core.demo import load_photographs, ms_ssim_db
from lmcl_core.distortions import ALL_DISTORTIONS, DISTORTIONS, KINDS, LEVELS

PHOTOGRAPH = load_photographs()["coffee"][:256, :256]


def displaced(level, seed=0, photograph=PHOTOGRAPH):
    return ALL_DISTORTIONS["displaced patches"](photograph, level, np.random.default_rng(seed))


def test_every_distortion_has_a_kind_and_the_demo_keeps_its_own():
    assert set(KINDS) == set(ALL_DISTORTIONS) == {*DISTORTIONS, "displaced patches"}


def test_displaced_patches_lower_structural_similarity_with_every_level():
    similarity = [ms_ssim_db(PHOTOGRAPH, displaced(level)) for level in range(LEVELS)]
    assert similarity == sorted(similarity, reverse=True) and similarity[0] - similarity[-1] > 3


def test_displaced_patches_leave_brightness_and_contrast_as_they_were():
    worst = displaced(LEVELS - 1).astype(float)
    assert abs(worst.mean() - PHOTOGRAPH.mean()) < 2 and abs(worst.std() - PHOTOGRAPH.std()) < 3
    assert (worst != PHOTOGRAPH).any(axis=2).mean() > 0.25


def test_displaced_patches_are_the_same_for_the_same_seed_only():
    before = PHOTOGRAPH.copy()
    assert np.array_equal(displaced(2), displaced(2)) and not np.array_equal(displaced(2), displaced(2, seed=1))
    assert np.array_equal(PHOTOGRAPH, before)


@pytest.mark.parametrize("shape", [(8, 40, 3), (1, 1, 3), (15, 15, 3)])
def test_pictures_smaller_than_a_patch_are_left_whole(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert displaced(4, photograph=picture).shape == shape
