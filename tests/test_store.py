"""The store of decoded pictures: exact, rebuilt when a file changes, whole or not there at all."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lmcl_core import InputError, RunError, data_hash, load_benchmark
from lmcl_core.paths import cache_folder
from lmcl_core.store import PictureStore, _fill, decode


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(livec) -> pd.DataFrame:
    return load_benchmark("livec", livec)


def files_of_the_store() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "store").glob("*"))


def path_of(table: pd.DataFrame, row: int) -> Path:
    return Path(table.attrs["root"]) / table["image"][row]


def no_room(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_every_picture_is_bit_identical_to_plain_decoding(table):
    store = PictureStore.open(table)
    assert len(store) == len(table) and len({store.picture(i).shape for i in range(len(store))}) == 2
    for row in range(len(table)):
        plain = np.asarray(Image.open(path_of(table, row)).convert("RGB"))
        assert np.array_equal(store.picture(row).numpy(), plain)


def test_a_crop_at_native_scale_is_bit_identical_to_the_file(table):
    store = PictureStore.open(table)
    boxes = torch.tensor([[[3, 5, 16, 16], [0, 0, 16, 16]], [[10, 2, 16, 16], [24, 24, 16, 16]]])
    crops = store.crops([4, 0], boxes, 16)
    assert crops.shape == (4, 3, 16, 16) and crops.dtype == torch.uint8
    for n, (row, box) in enumerate(zip([4, 4, 0, 0], boxes.flatten(0, 1).tolist())):
        plain = np.asarray(Image.open(path_of(table, row)).convert("RGB"))
        top, left = box[:2]
        assert np.array_equal(crops[n].permute(1, 2, 0).numpy(), plain[top : top + 16, left : left + 16])


def test_flips_mirror_left_and_right_and_only_where_asked(table):
    store = PictureStore.open(table)
    boxes = torch.tensor([[[3, 5, 16, 16], [0, 0, 32, 32]]])
    plain, flipped = store.crops([1], boxes, 16), store.crops([1], boxes, 16, torch.tensor([[False, True]]))
    assert torch.equal(plain[0], flipped[0]) and not torch.equal(plain[1], flipped[1])
    assert torch.equal(plain[1].flip(-1), flipped[1])


def test_pictures_stay_where_they_are_on_a_cpu_and_on_a_gpu_without_room(table, monkeypatch):
    store = PictureStore.open(table)
    assert store.on(torch.device("cpu")) is store
    pixels = sum(store.picture(i).numel() for i in range(len(store)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * pixels - 1, 10**12))
    assert store.on(torch.device("cuda", 0)) is store


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_crops_are_those_of_the_cpu(table):
    store = PictureStore.open(table)
    boxes = torch.tensor([[[3, 5, 16, 16], [0, 0, 32, 32]]])
    there = store.on(torch.device("cuda", 0)).crops([1], boxes, 16)
    here = store.crops([1], boxes, 16)
    assert there.is_cuda and torch.equal(there[0].cpu(), here[0])  # native scale: bit for bit
    assert (there[1].cpu().int() - here[1].int()).abs().max() <= 1


def test_the_size_is_told_before_pictures_are_decoded_and_never_again(table, tmp_path):
    told = []
    store = PictureStore.open(table, cache=tmp_path, log=told.append)
    size = sum(store.picture(i).numel() for i in range(len(store)))
    assert told == [f"decoding {len(table)} pictures, once: {size / 1e9:.2f} GB in the cache"]
    PictureStore.open(table, cache=tmp_path, log=told.append)
    assert len(told) == 1 and (tmp_path / "store").is_dir()


def test_crops_leave_the_store_as_it_is(table):
    store = PictureStore.open(table)
    before = store.picture(0).clone()
    store.crops([0], torch.tensor([[[0, 0, 16, 16]]]), 16).zero_()
    assert torch.equal(store.picture(0), before)


def test_the_whole_picture_is_squeezed_to_a_square(table):
    row = table.index[table["image"].str.endswith("/6.bmp")].item()
    store = PictureStore.open(table)
    assert store.picture(row).shape == (40, 60, 3)
    views = store.whole([row, 0], 24)
    assert views.shape == (2, 3, 24, 24) and views.dtype == torch.uint8
    plain = np.asarray(Image.open(path_of(table, row)).resize((24, 24), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(views[0].permute(1, 2, 0).numpy().astype(int) - plain).max() <= 2


def test_the_whole_of_a_picture_of_that_very_size_is_the_picture(table):
    store = PictureStore.open(table)
    assert torch.equal(store.whole(torch.tensor([1]), 48)[0].permute(1, 2, 0), store.picture(1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_comes_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:10, :10] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=100, exif=exif)
    table = pd.DataFrame({"image": ["a.jpg"], "mos": [50.0]})
    table.attrs["root"] = str(tmp_path)
    upright = PictureStore.open(table).picture(0).numpy()
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
    assert upright.shape == turned.shape
    assert np.abs(upright.astype(int) - turned).mean() < 10
    assert np.array_equal(upright, decode(tmp_path / "a.jpg"))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_is_decoded_to_rgb(tmp_path, mode):
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    picture = Image.fromarray(np.stack([ramp, ramp.T, ramp], axis=-1)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    pixels = decode(path)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(picture.convert("RGB"))) and np.ptp(pixels) > 100


def test_a_transparent_picture_keeps_the_colours_below(tmp_path):
    Image.new("RGBA", (4, 4), (10, 200, 30, 128)).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png") == (10, 200, 30)).all()


def test_sixteen_bits_of_grey_become_eight_not_white(tmp_path):
    grey = np.tile(np.arange(0, 65536, 2048, dtype=np.uint16), (32, 1))
    Image.fromarray(grey).save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png")
    assert np.abs(pixels[..., 0].astype(int) - grey / 257).max() <= 1


def test_a_second_opening_decodes_nothing(table, monkeypatch):
    first = PictureStore.open(table).picture(3).clone()
    monkeypatch.setattr("lmcl_core.store.decode", no_room)
    assert torch.equal(PictureStore.open(table).picture(3), first) and len(files_of_the_store()) == 2


def test_a_changed_file_makes_a_new_store(table):
    PictureStore.open(table)
    Image.new("RGB", (48, 48), (1, 2, 3)).save(path_of(table, 0))
    assert PictureStore.open(table).picture(0).unique().tolist() == [1, 2, 3] and len(files_of_the_store()) == 4


def test_the_store_is_named_by_the_data_hash(table):
    PictureStore.open(table)
    assert all(name.startswith(data_hash(table)) for name in files_of_the_store())


def test_a_file_that_was_unpacked_again_with_its_old_time_makes_a_new_store(table):
    path = path_of(table, 0)
    PictureStore.open(table)
    kept = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    PictureStore.open(table)
    assert len(files_of_the_store()) == 4


def test_a_file_of_the_same_size_that_was_changed_makes_a_new_store(table):
    PictureStore.open(table)
    os.utime(path_of(table, 0), ns=(1, 1))
    PictureStore.open(table)
    assert len(files_of_the_store()) == 4


def test_a_new_version_of_the_decoder_makes_a_new_store(table, monkeypatch):
    PictureStore.open(table)
    monkeypatch.setattr("lmcl_core.store.VERSION", 0)
    PictureStore.open(table)
    assert len(files_of_the_store()) == 4


def test_what_a_killed_builder_left_is_taken_away(table):
    name = PictureStore.open(table) and files_of_the_store()[0].removesuffix(".json")
    folder = cache_folder() / "store"
    (folder / f"{name}.json").unlink()
    (folder / f".{name}.u8-0123").write_bytes(b"half")
    (folder / ".other.u8-0123").write_bytes(b"of another store")
    PictureStore.open(table)
    assert files_of_the_store() == [".other.u8-0123", f"{name}.json", f"{name}.u8"]


def test_another_order_of_rows_is_another_store(table):
    first = PictureStore.open(table)
    reverse = table.iloc[::-1].reset_index(drop=True)
    reverse.attrs = table.attrs
    second = PictureStore.open(reverse)
    assert all(torch.equal(first.picture(n), second.picture(len(table) - 1 - n)) for n in range(len(table)))


@pytest.mark.parametrize("row, cut", [(0, 0.5), (4, 0.5), (0, 0.0), (4, 0.01)])
def test_a_truncated_picture_is_named_and_leaves_nothing_behind(table, row, cut):
    path = path_of(table, row)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(InputError, match=f"unreadable image {path} .*fetch this file again"):
        PictureStore.open(table)
    assert files_of_the_store() == []


def test_a_missing_picture_is_named(table):
    path_of(table, 2).unlink()
    with pytest.raises(InputError, match=f"missing image {path_of(table, 2)}: unpack"):
        PictureStore.open(table)
    assert files_of_the_store() == []


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(30), b"\xff\xd8\xff\xe0", b"BM" + bytes(60)]
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"unreadable image .*a\.png"):
        decode(tmp_path / "a.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(InputError, match="unreadable image"):
        decode(tmp_path)


def test_a_header_that_claims_a_gigantic_picture_is_refused_by_name(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = (60000).to_bytes(4, "little") * 2
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(InputError, match=r"image .*a\.bmp has more than 178 megapixels"):
        decode(tmp_path / "a.bmp")


def test_two_threads_that_build_at_once_both_get_a_valid_store(table):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(PictureStore.open, [table] * 4))
    plain = decode(path_of(table, 5))
    assert all(np.array_equal(store.picture(5).numpy(), plain) for store in [*stores, PictureStore.open(table)])
    assert len(files_of_the_store()) == 2


def test_two_processes_that_build_at_once_both_get_a_valid_store(table):
    code = (
        "import sys; from lmcl_core import load_benchmark; from lmcl_core.store import PictureStore;"
        "t = load_benchmark('livec', sys.argv[1]); s = PictureStore.open(t);"
        "print(sum(int(s.picture(i).sum()) for i in range(len(s))))"
    )
    command = [sys.executable, "-c", code, table.attrs["root"]]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {int(process.communicate(timeout=120)[0]) for process in running}
    assert said == {sum(int(decode(path_of(table, row)).sum()) for row in range(len(table)))}
    assert len(files_of_the_store()) == 2


@pytest.mark.parametrize("call", ["posix_fallocate", "replace"])
def test_a_full_disk_is_told_and_leaves_nothing_behind(table, monkeypatch, call):
    monkeypatch.setattr(os, call, no_room)
    with pytest.raises(RunError, match=r"disk full while saving .*free some space"):
        PictureStore.open(table)
    assert files_of_the_store() == []


def test_a_build_that_failed_is_made_good_by_the_next(table, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(RunError):
            PictureStore.open(table)
    assert np.array_equal(PictureStore.open(table).picture(0).numpy(), decode(path_of(table, 0)))


def test_a_system_without_fallocate_builds_the_same_store(table, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    assert np.array_equal(PictureStore.open(table).picture(7).numpy(), decode(path_of(table, 7)))


def test_a_full_disk_is_told_on_a_system_without_fallocate(table, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(RunError, match="disk full"):
        PictureStore.open(table)
    assert files_of_the_store() == []


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: os.truncate(path, 100)], ids=["gone", "cut short"])
def test_a_store_whose_pixels_are_not_whole_is_built_again(table, spoil):
    PictureStore.open(table)
    spoil(next((cache_folder() / "store").glob("*.u8")))
    assert np.array_equal(PictureStore.open(table).picture(0).numpy(), decode(path_of(table, 0)))


def test_the_disk_writes_while_further_pictures_are_awaited(tmp_path, monkeypatch):
    path, written, made = tmp_path / "pixels", [], []
    path.write_bytes(bytes(3000))
    monkeypatch.setattr("lmcl_core.store.PORTION", 1)
    monkeypatch.setattr(os, "fsync", lambda file: written.append(file))

    def pictures():
        while len(written) < 4 and len(made) < 1000:  # the first is asked for before any picture is there
            time.sleep(0.001)
            made.append(len(made) % 256)
            yield np.full((1, 1, 3), made[-1], dtype=np.uint8)

    _fill(path, pictures())
    assert len(written) >= 4
    assert path.read_bytes() == bytes(value for value in made for _ in range(3)).ljust(3000, b"\0")
