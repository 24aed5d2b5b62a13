"""Image distortions of known type and level."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

LEVELS = 5

#: (image (H, W, 3) uint8, level 0..4, generator) -> distorted image (H, W, 3) uint8
Distort = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _white_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return _to_uint8(image + rng.normal(0, (4, 10, 20, 36, 60)[level], image.shape))


def _pink_noise(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    height, width, _ = image.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency, (height, width))
    return _to_uint8(image + (6, 12, 22, 36, 56)[level] * (noise / noise.std()).transpose(1, 2, 0))


def _blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur((0.6, 1.1, 1.8, 2.8, 4.5)[level])))


def _contrast(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    gain, mean = (0.8, 0.62, 0.46, 0.32, 0.2)[level], image.mean()
    return _to_uint8(mean + gain * (image - mean))


def _jpeg(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return _compress(image, format="JPEG", quality=(60, 30, 15, 8, 4)[level])


def _jpeg2000(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return _compress(image, format="JPEG2000", quality_mode="rates", quality_layers=[(15, 35, 70, 140, 280)[level]])


def _compress(image: np.ndarray, **options: object) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _displaced_patches(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Replace patches by others at most 15 pixels away, which changes structure but hardly colour and contrast."""
    height, width = image.shape[:2]
    side, distorted = min(15, height, width), image.copy()
    for _ in range(round((0.03, 0.06, 0.12, 0.24, 0.48)[level] * height * width / side**2)):
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        down, right = np.clip((top, left) + rng.integers(-15, 16, size=2), 0, (height - side, width - side))
        distorted[down : down + side, right : right + side] = image[top : top + side, left : left + side]
    return distorted


#: The six distortion types of the demo, after those of CSIQ.
DISTORTIONS: dict[str, Distort] = {
    "white noise": _white_noise,
    "JPEG": _jpeg,
    "JPEG 2000": _jpeg2000,
    "blur": _blur,
    "contrast": _contrast,
    "pink noise": _pink_noise,
}

#: `DISTORTIONS`, and one like the "non eccentricity pattern noise" of TID2013.
ALL_DISTORTIONS: dict[str, Distort] = {**DISTORTIONS, "displaced patches": _displaced_patches}

#: The group of each distortion: the paper's claim distinguishes noise from loss of structure.
KINDS = {
    **dict.fromkeys(("white noise", "pink noise"), "noise"),
    **dict.fromkeys(("JPEG", "JPEG 2000", "displaced patches"), "structure"),
    **dict.fromkeys(("blur", "contrast"), "other"),
}
