"""Files of any layout, format and size give the pixels that people see, or are refused by name in one line."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
from layouts import png_with
from PIL import Image

from lmcl_core import InputError
from lmcl_core.data import formats
from lmcl_core.data.formats import ImageError, check_bytes, format_of
from lmcl_core.data.images import decode, from_bytes, load_rgb, upright_size

tifffile = pytest.importorskip("tifffile")
GREY = np.add.outer(np.arange(48), np.arange(64) * 3).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
PLANES = np.moveaxis(RGB, 2, 0)
ALPHA = dict(photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])
APART = dict(photometric="rgb", planarconfig="separate")


@pytest.mark.parametrize(
    "pixels, options",
    [
        (RGB, dict(photometric="rgb", compression="zlib", predictor=True, tile=(16, 16))),
        (RGB.astype(np.uint16) * 257, dict(photometric="rgb", byteorder=">")),
        (PLANES, APART),
        (PLANES, APART | dict(compression="zlib")),
        (255 - GREY, dict(photometric="miniswhite")),
        (GREY.astype(np.uint16) * 257, {}),
    ],
)
def test_a_tiff_file_is_read_by_its_tags(tmp_path, pixels, options):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    expected = RGB if "rgb" in options.values() else np.stack([GREY] * 3, axis=2)
    assert np.array_equal(decode(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize(
    "pixels, options, layout",
    [
        (PLANES.astype(np.uint16) * 257, APART, "16-bit channels that are stored apart"),
        (65535 - GREY.astype(np.uint16) * 257, dict(photometric="miniswhite"), "white is zero"),
        (GREY.astype(np.uint32) * 16843009, {}, "32 bits a channel"),
        (GREY.astype(np.int16), {}, "signed integers"),
        (GREY / np.float32(255), {}, "floating-point"),
        (RGB.astype(np.float32), dict(photometric="rgb"), "floating-point"),
        (np.stack([GREY] * 2, axis=2).astype(np.uint16), ALPHA, "unusual layout"),
        (RGB.astype(np.uint16), dict(photometric="rgb", bigtiff=True, byteorder=">"), "64-bit offsets"),
    ],
)
def test_a_tiff_file_that_would_be_misread_is_refused_with_its_layout(tmp_path, pixels, options, layout):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    for call in (decode, upright_size, lambda path: from_bytes(path.read_bytes(), path)):
        with pytest.raises(ImageError, match=f"a.tif is a TIFF file with .*{layout}.*: save it with 8 bits") as caught:
            call(tmp_path / "a.tif")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "head, form, package",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC", "pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1hevc", "HEIC", "pillow-heif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF", "pillow-avif-plugin"),
        (b"\xff\x0a", "JPEG XL", "pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "pillow-jxl-plugin"),
    ],
)
def test_a_format_that_needs_a_plugin_is_known_by_its_first_bytes(tmp_path, monkeypatch, head, form, package):
    monkeypatch.setattr(formats, "_register", lambda form: False)  # as where no plugin is installed
    (tmp_path / "a.jpg").write_bytes(head + bytes(300))
    assert format_of(head) == form
    with pytest.raises(
        ImageError, match=f"a.jpg is a file in the format {form}: run `pip install {package}`, or convert"
    ):
        decode(tmp_path / "a.jpg")
    monkeypatch.setattr(formats, "_register", lambda form: True)  # where it is, the file must be damaged
    with pytest.raises(InputError, match="unreadable image .*a.jpg"):
        decode(tmp_path / "a.jpg")
    assert format_of(b"\0\0\0\x18ftypisom\0\0\0\0mp42isom") is None


@pytest.mark.parametrize("name, start", [(b"zTXt", b"workflow\0\0"), (b"iTXt", b"prompt\0\1\0\0\0")])
def test_large_texts_in_a_png_file_do_not_matter(tmp_path, name, start):
    (tmp_path / "a.png").write_bytes(png_with(RGB, (name, start + zlib.compress(b"x" * 20_000_000))))
    assert np.array_equal(decode(tmp_path / "a.png"), RGB)


def header(width: int, height: int) -> bytes:
    """The header of a large PNG file, and the first of its pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 2**20) + b"IDAT" + zlib.compress(bytes(2**20))


@pytest.mark.parametrize(
    "width, height, problem",
    [(w, h, "pixels, more than 65535 on one side") for w, h in ((170_000_000, 1), (1, 65_536))],
)
def test_an_image_is_refused_by_its_size_before_memory_is_taken(tmp_path, width, height, problem):
    (tmp_path / "a.png").write_bytes(header(width, height))
    for call in (decode, upright_size):
        with pytest.raises(ImageError, match=f"a.png has {width} x {height} {problem}.*: save it in a smaller size"):
            call(tmp_path / "a.png")
    if height > 1:
        for item in (np.zeros((height, width), np.uint8), Image.new("L", (width, height))):
            with pytest.raises(ImageError, match=f"image has {width} x {height} {problem}"):
                load_rgb(item)


def test_a_format_that_takes_more_memory_has_a_lower_limit_and_so_have_bytes(monkeypatch):
    image = Image.new("1", (10_000, 12_000))
    formats.check_image(image, "a")
    image.format = "JPEG2000"
    with pytest.raises(ImageError, match="a has more than 92 megapixels"):
        formats.check_image(image, "a")
    with pytest.raises(ImageError, match="a is a file of 3.0 GB"):
        check_bytes(3 * 10**9, "a")


def test_a_lack_of_memory_is_told_with_the_name_of_the_file(tmp_path, monkeypatch):
    def fail(self):
        raise MemoryError

    Image.fromarray(RGB).save(tmp_path / "a.bmp")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    with pytest.raises(ImageError, match="a.bmp needs more memory than is free: close"):
        decode(tmp_path / "a.bmp")


def test_warnings_of_pillow_are_silent(tmp_path):
    """They name no file."""
    image = Image.fromarray(RGB).quantize()
    image.save(tmp_path / "a.png", transparency=bytes(range(200)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(tmp_path / "a.png").shape == RGB.shape
        with pytest.raises(UserWarning):
            warnings.warn("of somebody else", stacklevel=1)


@pytest.mark.parametrize("transfer", [16, 18])
def test_an_hdr_picture_is_refused_by_name(tmp_path, transfer):
    for named, bad in ((transfer, True), (13, False)):
        (tmp_path / "b.png").write_bytes(png_with(RGB, (b"cICP", bytes([9, named, 0, 1]))))
        if bad:
            with pytest.raises(ImageError, match="b.png is an HDR picture"):
                decode(tmp_path / "b.png")
        else:
            np.testing.assert_array_equal(decode(tmp_path / "b.png"), RGB)
