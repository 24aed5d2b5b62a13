"""Colours of images in sRGB: embedded ICC profiles, and the gamma and primaries of PNG files."""

from __future__ import annotations

import functools
import io
import struct
import warnings

import numpy as np
from PIL import Image, ImageCms

#: Largest difference in levels between a profile's colours and sRGB at which the profile counts as sRGB.
_SAME = 4
_FLAGS = ImageCms.Flags.NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION  # without a cache, threads can share it
_RELATIVE = ImageCms.Intent.RELATIVE_COLORIMETRIC
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # by the colour space of a profile
_GREY = ("1", "L", "LA")

_WHITE_AND_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # of sRGB, as in a PNG file's cHRM chunk
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # parameters g, a, b, c, d of an ICC profile
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_srgb(image: Image.Image, name: object) -> Image.Image:
    """Convert a decoded image with 8 bits a channel, of any mode, to RGB as viewers show it.

    An image without a profile, or with one that equals sRGB, keeps its values. A profile that cannot be used, or is
    made for another kind of pixels, is ignored as viewers do, and a warning names the file.
    """
    profile = image.info.get("icc_profile") or _png_profile(image.info)
    if not profile or image.mode == "LAB":  # Pillow converts these device-independent colours itself
        return _in(image, "RGB")
    mode = _MODES.get(profile[16:20].decode("latin-1").strip())
    fits = mode and (image.mode == "CMYK") == (mode == "CMYK") and (mode != "L" or image.mode in _GREY)
    try:
        transform = _transform(profile, mode) if fits else None
    except (ImageCms.PyCMSError, OSError, ValueError):
        fits = False
    if not fits:
        warnings.warn(f"image {name} has an unusable colour profile: its colours are taken as sRGB", stacklevel=2)
        return _in(image, "RGB")
    if transform is None:
        return _in(image, "RGB")
    return transform.apply(_in(image, mode))


def _in(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of a profile's colours to sRGB; None if it would change nothing but rounding."""
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    exact = ImageCms.Flags.NOOPTIMIZE if mode == "L" else 0  # the faster way is wrong by 10 levels in dark grey
    transform = ImageCms.buildTransform(source, srgb, mode, "RGB", _RELATIVE, _FLAGS | exact)
    if mode == "CMYK":
        return transform
    greys = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(-1, 3)
    levels = np.array([0, 16, 32, 64, 96, 128, 160, 192, 224, 255], dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    probe = np.concatenate([greys, colours])[None] if mode == "RGB" else greys[None]
    shown = np.asarray(transform.apply(Image.fromarray(probe).convert(mode)))
    return None if np.abs(shown.astype(int) - probe).max() <= _SAME else transform


def _png_profile(info: dict) -> bytes | None:
    """An ICC profile of the chunks gAMA and cHRM of a PNG file; None without them, or with impossible values."""
    if "srgb" in info or not {"gamma", "chromaticity"} & set(info):
        return None
    gamma = info.get("gamma") or 1 / 2.2
    if not 16e-5 <= gamma <= 6250:  # as libpng
        return None
    try:
        curve = _SRGB_CURVE if 0.45 <= gamma <= 0.46 else (1 / gamma,)
        return _icc(_to_d50(info.get("chromaticity") or _WHITE_AND_PRIMARIES), curve)
    except (ArithmeticError, ValueError, struct.error, np.linalg.LinAlgError):
        return None


def _to_d50(chromaticity: tuple[float, ...]) -> np.ndarray:
    """(3, 3) matrix from linear RGB to XYZ under D50; columns are the primaries."""
    points = np.array(chromaticity).reshape(4, 2)
    white, *primaries = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in points.tolist())
    rgb = np.stack(primaries, axis=1)
    rgb = rgb * np.linalg.solve(rgb, white)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD @ rgb
    if not np.isfinite(adapted).all():
        raise ValueError("primaries of no colour space")
    return adapted


def _icc(matrix: np.ndarray, curve: tuple[float, ...]) -> bytes:
    """A version 4 ICC profile of an RGB space: its matrix to XYZ and its curve, a gamma or five values."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    parameters = b"para\0\0\0\0" + struct.pack(">HH", 3 if len(curve) > 1 else 0, 0) + fixed(*curve)
    data = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*_D50)}
    data |= {name + b"XYZ": b"XYZ \0\0\0\0" + fixed(*column) for name, column in zip((b"r", b"g", b"b"), matrix.T)}
    data |= {name + b"TRC": parameters for name in (b"r", b"g", b"b")}
    start, table, body = 128 + 4 + 12 * len(data), struct.pack(">I", len(data)), b""
    for tag, value in data.items():
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"", 0x04000000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return head + bytes(28) + fixed(*_D50) + bytes(48) + table + body
