"""A damaged image file is decoded or refused by name, within the limits of memory."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged, examples, sealed, tried
from PIL import Image, ImageCms

from lmcl_core import InputError
from lmcl_core.data import formats
from lmcl_core.data.images import decode

LIMIT, SPARE = 40_000_000, 25_000_000  # bytes; what the libraries themselves need is spared


def _pictures() -> dict[str, bytes]:
    """Small sound files of several formats, modes and compressions, with the metadata that decoders read."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    grey = Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80)
    exif, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif[274] = 6
    about = dict(exif=exif, icc_profile=profile)
    kinds = {
        "rgb.png": (rgb, about), "grey.png": (grey, {}), "palette.png": (rgb.quantize(16), dict(transparency=3)),
        "rgb.jpg": (rgb, about), "cmyk.jpg": (rgb.convert("CMYK"), {}), "slow.jpg": (rgb, dict(progressive=True)),
        "rgb.tif": (rgb, about), "lzw.tif": (rgb, dict(compression="tiff_lzw")), "grey.tif": (grey, {}),
        "jpeg.tif": (rgb, dict(compression="jpeg")), "g4.tif": (rgb.convert("1"), dict(compression="group4")),
        "rgb.bmp": (rgb, {}), "palette.bmp": (rgb.quantize(16), {}), "rgb.webp": (rgb, about),
        "exact.webp": (rgb, dict(lossless=True)), "moving.webp": (rgb, dict(save_all=True, append_images=[rgb])),
        "rgb.gif": (rgb.quantize(16), {}), "rgb.jp2": (rgb, {}), "rgb.ppm": (rgb, {}),
    }  # fmt: skip
    found = {}
    for name, (image, options) in kinds.items():
        image.save(buffer := io.BytesIO(), Image.registered_extensions()[Path(name).suffix], **options)
        found[name] = buffer.getvalue()
    return found


PICTURES = _pictures()


def _memory(name: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """The file to write; images are refused long before they fill this machine."""
    path = tmp_path_factory.mktemp("pictures") / "a {0}.png"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(formats, "MOST_BYTES", LIMIT)
        for content in PICTURES.values():
            path.write_bytes(content)
            assert decode(path).shape in ((24, 32, 3), (32, 24, 3))
        yield path


def _growth(path: Path) -> int:
    """Bytes by which decoding a file, or refusing it by name, raises the peak of this process."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before = _memory("VmRSS")
    try:
        pixels = decode(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    except InputError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1
    return _memory("VmHWM") - before


@examples(4)
@given(content=damaged(list(PICTURES.values())), seal=st.booleans())
def test_a_damaged_picture_is_decoded_or_refused_by_name(picture, content, seal):
    picture.write_bytes(sealed(content) if seal and content[:4] == b"\x89PNG" else content)
    # once more, because clearing memory that was freed before counts too
    assert _growth(picture) < LIMIT + SPARE or _growth(picture) < LIMIT + SPARE
    tried["pictures"] += 1
