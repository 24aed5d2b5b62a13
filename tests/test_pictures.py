"""Large pictures brought to a stated short side."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lmcl_core import InputError, load_benchmark
from lmcl_core.pictures import decode, shrink, shrunk
from lmcl_core.scoring import as_picture
from lmcl_core.store import PictureStore

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "size, side, wanted",
    [
        ((60, 90), 30, (30, 45)),
        ((90, 60), 30, (45, 30)),
        ((61, 90), 30, (30, 44)),
        ((60, 90), 60, (60, 90)),
        ((60, 90), 61, (60, 90)),
        ((60, 90), None, (60, 90)),
    ],
)
def test_the_short_side_is_met_and_the_shape_kept(size, side, wanted):
    assert shrunk(*size, side) == wanted
    assert shrink(np.zeros((*size, 3), np.uint8), side).shape[:2] == wanted


@pytest.mark.parametrize("error", [RuntimeError("Failed to decode image"), OSError(36, "File name too long")])
def test_whatever_a_decoder_raises_is_told_of_its_file(tmp_path, monkeypatch, error):
    def fail(source):
        raise error

    (tmp_path / "odd.avif").write_bytes(b"odd")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(InputError, match="unreadable image .*odd.avif"):
        decode(tmp_path / "odd.avif")


def test_a_small_picture_is_left_bit_for_bit():
    assert shrink(PICTURE, 60) is PICTURE and shrink(PICTURE, None) is PICTURE


def test_shrinking_is_antialiased():
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(shrink(stripes, 30)[4:-4, 4:-4].astype(int) - 127).max() <= 8


def test_the_store_holds_what_shrinking_a_decoded_file_gives(livec):
    table = load_benchmark("livec", livec)
    plain, small = PictureStore.open(table), PictureStore.open(table, 24)
    assert not np.array_equal(plain.picture(0).shape, small.picture(0).shape)
    for row, image in enumerate(table["image"]):
        assert np.array_equal(small.picture(row).numpy(), shrink(decode(livec / image), 24))


def test_a_picture_to_be_scored_is_shrunk_like_those_of_the_training():
    for item in (PICTURE, Image.fromarray(PICTURE)):
        assert np.array_equal(as_picture(item, 30).numpy(), shrink(PICTURE, 30))
