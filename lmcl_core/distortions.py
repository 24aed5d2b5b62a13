"""Distortions of known kind and level."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

LEVELS = 5


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _white_noise(photograph: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    sigma = (4, 10, 20, 36, 60)[level]
    return _to_uint8(photograph + rng.normal(0, sigma, photograph.shape))


def _pink_noise(photograph: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    height, width, _ = photograph.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency
    noise = np.fft.irfft2(spectrum, (height, width))
    return _to_uint8(photograph + (6, 12, 22, 36, 56)[level] * (noise / noise.std()).transpose(1, 2, 0))


def _blur(photograph: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    radius = (0.6, 1.1, 1.8, 2.8, 4.5)[level]
    return np.asarray(Image.fromarray(photograph).filter(ImageFilter.GaussianBlur(radius)))


def _contrast(photograph: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    gain, mean = (0.8, 0.62, 0.46, 0.32, 0.2)[level], photograph.mean()
    return _to_uint8(mean + gain * (photograph - mean))


def _encoded(photograph: np.ndarray, **options: object) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(photograph).save(buffer, **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _jpeg(photograph: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return _encoded(photograph, format="JPEG", quality=(60, 30, 15, 8, 4)[level])


def _jpeg2000(photograph: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    ratio = (15, 35, 70, 140, 280)[level]
    return _encoded(photograph, format="JPEG2000", quality_mode="rates", quality_layers=[ratio])


def _displaced_patches(photograph: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    side, (height, width) = min(15, *photograph.shape[:2]), photograph.shape[:2]
    moved = (0.03, 0.06, 0.12, 0.24, 0.48)[level] * height * width / side**2
    distorted = photograph.copy()
    for _ in range(
        round(moved)
    ):  # every patch is copied from at most 15 pixels away, so colours fit and structure does not
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        down, right = np.clip((top, left) + rng.integers(-15, 16, size=2), 0, (height - side, width - side))
        distorted[down : down + side, right : right + side] = photograph[top : top + side, left : left + side]
    return distorted


#: (photograph (H, W, 3) uint8, level 0..4, generator) -> distorted photograph
Distort = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

#: CSIQ-like distortions by name, those of the demo.
DISTORTIONS: dict[str, Distort] = {
    "white noise": _white_noise,
    "JPEG": _jpeg,
    "JPEG 2000": _jpeg2000,
    "blur": _blur,
    "contrast": _contrast,
    "pink noise": _pink_noise,
}

#: Those, and one that moves structure about and leaves colours and contrast as they were, as TID2013's "non
#: eccentricity pattern noise" does.
ALL_DISTORTIONS: dict[str, Distort] = {**DISTORTIONS, "displaced patches": _displaced_patches}

#: The kinds of `ALL_DISTORTIONS` that the paper's claim is about.
KINDS = {
    "white noise": "noise",
    "pink noise": "noise",
    "JPEG": "structure",
    "JPEG 2000": "structure",
    "displaced patches": "structure",
    "blur": "other",
    "contrast": "other",
}
