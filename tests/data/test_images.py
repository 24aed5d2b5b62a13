"""Images of any format and mode become upright 8-bit RGB; others are refused by name."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from lmcl_core import InputError
from lmcl_core.data.images import decode, from_bytes, images_below, load_rgb, resize_crop, shrink, shrunk, upright_size

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_is_decoded_to_rgb(tmp_path, mode):
    image = Image.fromarray(np.stack([RAMP, RAMP.T, RAMP], axis=-1)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    pixels = decode(path)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(image.convert("RGB"))) and np.ptp(pixels) > 100


def test_transparency_is_dropped_and_16_bit_grey_is_scaled(tmp_path):
    Image.new("RGBA", (4, 4), (10, 200, 30, 128)).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png") == (10, 200, 30)).all()
    grey = RAMP.astype(np.uint16) * 256
    Image.fromarray(grey).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", Image.fromarray(grey.astype(np.int32))):
        assert np.abs(load_rgb(image)[..., 0].int().numpy() - grey / 257).max() <= 1
    assert np.array_equal(load_rgb(Image.fromarray(RAMP.astype(np.int32)))[..., 0].numpy(), RAMP)  # 8 bits in mode I


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_is_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:10, :10] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=100, exif=exif)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    upright = decode(tmp_path / "a.jpg")
    assert upright.shape == turned.shape and upright_size(tmp_path / "a.jpg") == turned.shape[:2]
    assert np.abs(upright.astype(int) - turned).mean() < 10


def test_paths_pil_images_arrays_and_bytes_are_read_alike(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    content = from_bytes((tmp_path / "a.png").read_bytes(), "s3://bucket/a.png")
    for item in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PIXELS), PIXELS, content):
        assert np.array_equal(load_rgb(item).numpy(), PIXELS)
        assert np.array_equal(load_rgb(item, 30).numpy(), shrink(PIXELS, 30))


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_arrays_of_up_to_four_channels_are_read(channels):
    array = RAMP if channels is None else np.stack([RAMP, *[RAMP.T] * (channels - 1)], axis=-1)
    expected = array[..., :3] if channels in (3, 4) else np.stack([RAMP] * 3, axis=-1)
    assert np.array_equal(load_rgb(array).numpy(), expected)


@pytest.mark.parametrize("item", [None, PIXELS.astype(float), PIXELS[:0], PIXELS[None], np.zeros((4, 4, 5), np.uint8)])
def test_other_inputs_are_refused(item):
    with pytest.raises(InputError, match="cannot read (NoneType|.* array .*): pass a path"):
        load_rgb(item)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(30), b"\xff\xd8\xff\xe0", b"BM" + bytes(60)]
)
def test_a_file_that_is_not_an_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"unreadable image .*a\.png"):
        decode(tmp_path / "a.png")
    with pytest.raises(InputError, match="unreadable image s3://bucket/a.png"):
        load_rgb(from_bytes(content, "s3://bucket/a.png"))


@pytest.mark.parametrize(
    "error, message",
    [
        (RuntimeError("Failed to decode image"), "unreadable image .*odd.avif .*: it is damaged"),
        (OSError(24, "Too many open files"), "image .*odd.avif cannot be read: Too many open files; check"),
        (PermissionError(), "odd.avif is not readable: give yourself permission"),
    ],
)
def test_any_exception_of_a_decoder_names_the_file(tmp_path, monkeypatch, error, message):
    def fail(source):
        raise error

    (tmp_path / "odd.avif").write_bytes(b"odd")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(InputError, match=message):
        decode(tmp_path / "odd.avif")


def test_unsupported_images_are_refused_with_the_fix(tmp_path, monkeypatch):
    (tmp_path / "phone.heic").write_bytes(b"heic")
    os.mkfifo(tmp_path / "pipe.png")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "BMP")
    header = bytearray(buffer.getvalue())
    header[18:26] = (60000).to_bytes(4, "little") * 2
    (tmp_path / "huge.bmp").write_bytes(header)
    messages = {
        "phone.heic": "unknown format",
        "pipe.png": "it is not a file",
        "": "it is not a file",
        "none.png": "missing image .*: check its path",
        "huge.bmp": "more than 178 megapixels",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message):
            decode(tmp_path / name)
    with monkeypatch.context() as refused, pytest.raises(InputError, match="is not readable: give yourself permission"):
        refused.setattr(os, "access", lambda path, mode: False)
        decode(tmp_path)
    with pytest.raises(InputError, match="floating-point pixels"):
        load_rgb(Image.fromarray(PIXELS[..., 0].astype(np.float32)))


def test_images_below_a_folder_are_found_once_and_without_hidden_ones(tmp_path):
    for name in ("b.JPG", "a/1.png", "a/phone.heic", "a/text.txt", ".hidden.png", ".cache/2.png", "__MACOSX/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    names = ["a/1.png", "a/phone.heic", "b.JPG", "gone.png"]
    assert images_below(tmp_path) == [tmp_path / name for name in names]


@pytest.mark.parametrize(
    "size, side, expected",
    [
        ((60, 90), 30, (30, 45)),
        ((90, 60), 30, (45, 30)),
        ((61, 90), 30, (30, 44)),
        ((60, 90), 60, (60, 90)),
        ((60, 90), 61, (60, 90)),
        ((60, 90), None, (60, 90)),
    ],
)
def test_the_short_side_is_met_and_the_shape_kept(size, side, expected):
    assert shrunk(*size, side) == expected
    pixels = np.zeros((*size, 3), np.uint8)
    assert shrink(pixels, side).shape[:2] == expected
    assert shrink(pixels, side) is pixels or expected != size


def test_a_crop_of_the_input_size_is_unchanged_and_resizing_is_antialiased():
    crop = torch.from_numpy(PIXELS[:32, :32])
    assert resize_crop(crop, 32) is crop
    stripes = torch.zeros(60, 60, 3, dtype=torch.uint8)
    stripes[:, ::2] = 255
    resized = resize_crop(stripes, 30)
    assert resized.shape == (30, 30, 3) and (resized[4:-4, 4:-4].int() - 127).abs().max() <= 8
    assert np.abs(shrink(stripes.numpy(), 30)[4:-4, 4:-4].astype(int) - 127).max() <= 8
