"""Colours are those that viewers show: profiles become sRGB, and images in sRGB keep every value."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from layouts import png_with
from PIL import Image, ImageCms

from lmcl_core.data.colour import _icc, _to_d50
from lmcl_core.data.images import decode, to_rgb

Y, X = np.mgrid[:64, :96]
PIXELS = np.stack([X * 2 + 30, Y * 3 + 30, (X + Y) + 40], axis=2).astype(np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SPACES = {
    "Display P3": ((0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06), 2.2),
    "Adobe RGB": ((0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 2.19921875),
    "ProPhoto": ((0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), 1.8),
    "linear sRGB": ((0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06), 1.0),
}
PROFILES = {name: _icc(_to_d50(points), (gamma,)) for name, (points, gamma) in SPACES.items()}


def grey_profile(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1, 0.8249)))
    table = struct.pack(">I4sII4sII", 2, b"kTRC", 156, len(curve), b"wtpt", 156 + len(curve), len(white))
    size = 156 + len(curve) + len(white)
    head = struct.pack(">I4sI4s4s4s12x4s", size, b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    return head + bytes(28) + white[8:] + bytes(48) + table + curve + white


def encoded(profile: bytes) -> Image.Image:
    """`PIXELS` as values of another colour space."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(Image.fromarray(PIXELS), ImageCms.createProfile("sRGB"), target, 1)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", PROFILES)
def test_the_same_colours_in_another_space_give_the_same_pixels(tmp_path, name, form):
    image = encoded(PROFILES[name])
    assert np.abs(np.asarray(image).astype(int) - PIXELS).max() > 6
    options = dict(lossless=True) if form == "WEBP" else {}
    image.save(tmp_path / "a", form, icc_profile=PROFILES[name], **options)
    difference = np.abs(decode(tmp_path / "a").astype(int) - PIXELS)
    assert difference.mean() < 0.7 and difference.max() <= 8  # rounding to 8 bits in the other space


@pytest.mark.parametrize(
    "profile",
    [None, SRGB, _icc(_to_d50(SPACES["linear sRGB"][0]), (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1"])
def test_an_image_in_srgb_keeps_every_value(profile, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    image.info["icc_profile"] = profile
    assert np.array_equal(to_rgb(image), np.asarray(image.convert("RGB")))


def test_grey_profiles_are_applied(tmp_path):
    grey = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (8, 1)))
    grey.save(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    shown = decode(tmp_path / "a.png")
    linear = np.arange(256) / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(shown[0, :, 0] - expected).max() <= 1 and (shown[..., 0] == shown[..., 2]).all()


@pytest.mark.parametrize(
    "mode, profile", [("RGB", b"no profile"), ("RGB", SRGB[:200]), ("CMYK", SRGB), ("RGB", grey_profile(1.8))]
)
def test_an_unusable_profile_is_ignored_as_viewers_do_and_the_file_is_named(tmp_path, mode, profile):
    image = Image.fromarray(PIXELS).convert(mode)
    image.save(tmp_path / "a.tif", icc_profile=profile)
    with pytest.warns(UserWarning, match="a.tif has an unusable colour profile: its colours are taken as sRGB"):
        assert np.array_equal(decode(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


def test_lab_colours_are_shown_whatever_their_profile(tmp_path, recwarn):
    smooth = Image.linear_gradient("L").convert("RGB")
    lab = ImageCms.profileToProfile(smooth, *map(ImageCms.createProfile, ("sRGB", "LAB")), outputMode="LAB")
    lab.save(tmp_path / "a.tif", icc_profile=SRGB)
    assert np.abs(decode(tmp_path / "a.tif").astype(int) - np.asarray(smooth)).max() <= 2 and not recwarn.list


def chunks(gamma: float | None, points: tuple[float, ...] | None, *others: tuple[bytes, bytes]) -> bytes:
    found = [(b"gAMA", struct.pack(">I", round(gamma * 1e5)))] if gamma is not None else []
    found += [(b"cHRM", struct.pack(">8I", *(round(value * 1e5) for value in points)))] if points else []
    return png_with(PIXELS, *others, *found)


def test_gamma_and_primaries_of_a_png_file_are_applied(tmp_path):
    path, points = tmp_path / "a.png", SPACES["Display P3"][0]
    path.write_bytes(png_with(PIXELS))
    plain = decode(path)
    with Image.open(path) as image:
        source = ImageCms.ImageCmsProfile(io.BytesIO(PROFILES["linear sRGB"]))
        bright = np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), 1))
    path.write_bytes(chunks(1.0, None))
    assert np.abs(decode(path).astype(int) - bright).max() <= 1 and bright.mean() > plain.mean() + 20
    path.write_bytes(chunks(1 / 2.2, points))
    assert np.ptp(decode(path).astype(int) - plain) > 20
    primaries_of_srgb = SPACES["linear sRGB"][0]
    for gamma, primaries in [
        (1 / 2.2, None),
        (0.45455, primaries_of_srgb),
        (0.0, None),
        (2e4, None),
        (1 / 2.2, (0,) * 8),
    ]:
        path.write_bytes(chunks(gamma, primaries))
        assert np.array_equal(decode(path), plain)
    path.write_bytes(chunks(1.0, points, (b"sRGB", b"\0")))  # sRGB has priority
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode(path), plain)
