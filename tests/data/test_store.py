"""The store of decoded images is exact, is rebuilt when a file changes, and is complete or absent."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lmcl_core import InputError, RunError, data_hash, load_benchmark
from lmcl_core.common.paths import cache_folder
from lmcl_core.data import store as store_module
from lmcl_core.data.images import decode, shrink
from lmcl_core.data.store import ImageStore


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(livec) -> pd.DataFrame:
    return load_benchmark("livec", livec)


def stored() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "store").glob("*"))


def path_of(table: pd.DataFrame, row: int) -> Path:
    return Path(table.attrs["root"]) / table["image"][row]


def no_room(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_every_image_is_bit_identical_to_plain_decoding(table):
    store = ImageStore.open(table)
    assert len(store) == len(table) and len({store.image(i).shape for i in range(len(store))}) == 2
    for row in range(len(table)):
        plain = np.asarray(Image.open(path_of(table, row)).convert("RGB"))
        assert np.array_equal(store.image(row).numpy(), plain)


def test_larger_images_are_shrunk_like_a_decoded_file(table):
    store = ImageStore.open(table, 24)
    for row in range(len(table)):
        assert np.array_equal(store.image(row).numpy(), shrink(decode(path_of(table, row)), 24))
    assert ImageStore.is_built(table, 24) and not ImageStore.is_built(table)


def test_a_crop_at_native_scale_is_bit_identical_to_the_file(table):
    boxes = torch.tensor([[[3, 5, 16, 16], [0, 0, 16, 16]], [[10, 2, 16, 16], [24, 24, 16, 16]]])
    crops = ImageStore.open(table).crops([4, 0], boxes, 16)
    assert crops.shape == (4, 3, 16, 16) and crops.dtype == torch.uint8
    for n, (row, (top, left, _, _)) in enumerate(zip([4, 4, 0, 0], boxes.flatten(0, 1).tolist())):
        plain = decode(path_of(table, row))[top : top + 16, left : left + 16]
        assert np.array_equal(crops[n].permute(1, 2, 0).numpy(), plain)
    store, flips = ImageStore.open(table), torch.tensor([[False, True], [True, True]])
    flipped = store.crops([4, 0], boxes, 16, flips)
    assert torch.equal(flipped[0], crops[0]) and torch.equal(flipped[1:], crops[1:].flip(-1))
    crops.zero_()
    assert torch.equal(store.crops([4, 0], boxes, 16, flips), flipped), "a changed crop leaves the store unchanged"


def test_the_global_view_is_the_whole_image_resized_to_a_square(table):
    row = table.index[table["image"].str.endswith("/6.bmp")].item()
    store = ImageStore.open(table)
    assert store.image(row).shape == (40, 60, 3)
    views = store.whole([row, 0], 24)
    assert views.shape == (2, 3, 24, 24) and views.dtype == torch.uint8
    plain = np.asarray(Image.open(path_of(table, row)).resize((24, 24), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(views[0].permute(1, 2, 0).numpy().astype(int) - plain).max() <= 2
    assert torch.equal(store.whole(torch.tensor([1]), 48)[0].permute(1, 2, 0), store.image(1))


def test_the_size_is_logged_before_images_are_decoded_and_not_again(table, tmp_path, monkeypatch):
    lines = []
    store = ImageStore.open(table, cache=tmp_path, log=lines.append)
    size = sum(store.image(i).numel() for i in range(len(store)))
    assert lines == [f"decoding {len(table)} images once: {size / 1e9:.2f} GB in the cache"]
    monkeypatch.setattr(store_module, "decode", no_room)
    again = ImageStore.open(table, cache=tmp_path, log=lines.append)
    assert torch.equal(again.image(3), store.image(3)) and len(lines) == 1
    assert sorted(path.name[:12] for path in (tmp_path / "store").iterdir()) == [data_hash(table)] * 2


def test_images_stay_on_the_cpu_for_a_cpu_and_for_a_gpu_without_room(table, monkeypatch):
    store = ImageStore.open(table)
    assert store.on(torch.device("cpu")) is store
    pixels = sum(store.image(i).numel() for i in range(len(store)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * pixels - 1, 10**12))
    assert store.on(torch.device("cuda", 0)) is store


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_crops_on_a_gpu_are_those_of_the_cpu(table):
    store, boxes = ImageStore.open(table), torch.tensor([[[3, 5, 16, 16], [0, 0, 32, 32]]])
    there, here = (one.crops([1], boxes, 16) for one in (store.on(torch.device("cuda", 0)), store))
    assert there.is_cuda and torch.equal(there[0].cpu(), here[0])  # native scale: bit for bit
    assert (there[1].cpu().int() - here[1].int()).abs().max() <= 1


def unpack_again(path: Path) -> None:
    """The same bytes with the old modification time, as an archive restores it."""
    stat = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [lambda path: Image.new("RGB", (48, 48), (1, 2, 3)).save(path), unpack_again, lambda path: os.utime(path, (1, 1))],
    ids=["pixels", "unpacked again", "time"],
)
def test_a_changed_file_makes_a_new_store(table, change):
    ImageStore.open(table)
    change(path_of(table, 0))
    assert np.array_equal(ImageStore.open(table).image(0).numpy(), decode(path_of(table, 0)))
    assert len(stored()) == 4


@pytest.mark.parametrize(
    "spoil",
    [("u8", Path.unlink), ("u8", lambda path: os.truncate(path, 100)), ("json", lambda path: path.write_text("{"))],
)
def test_an_incomplete_store_is_built_again(table, spoil):
    ImageStore.open(table)
    ending, damage = spoil
    damage(next((cache_folder() / "store").glob(f"*.{ending}")))
    assert np.array_equal(ImageStore.open(table).image(0).numpy(), decode(path_of(table, 0)))


def test_leftovers_of_a_killed_process_are_deleted(table):
    ImageStore.open(table)
    index, folder = Path(stored()[0]), cache_folder() / "store"
    (folder / index).unlink()
    (folder / f".{index.stem}.u8-0123").write_bytes(b"half")
    (folder / ".other.u8-0123").write_bytes(b"of another store")
    ImageStore.open(table)
    assert stored() == [".other.u8-0123", f"{index.stem}.json", f"{index.stem}.u8"]


@pytest.mark.parametrize("row, cut", [(0, 0.5), (4, 0.01)])
def test_a_truncated_image_is_named_and_leaves_nothing_behind(table, row, cut):
    path = path_of(table, row)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(InputError, match=f"unreadable image {path} .*download or copy it again"):
        ImageStore.open(table)
    assert stored() == []


def test_a_missing_image_and_a_wrong_header_are_named(table, monkeypatch):
    monkeypatch.setattr(store_module, "decode", lambda path, short_side: np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=f"unreadable image {path_of(table, 0)}: header and pixels disagree"):
        ImageStore.open(table)
    path_of(table, 2).unlink()
    with pytest.raises(InputError, match=f"missing image {path_of(table, 2)}: unpack"):
        ImageStore.open(table)
    path_of(table, 2).symlink_to(path_of(table, 2))
    with pytest.raises(InputError, match=f"image {path_of(table, 2)} cannot be reached .*: check the path"):
        ImageStore.open(table)
    assert stored() == []


@pytest.mark.slow
def test_processes_that_build_at_once_share_one_store(table):
    code = (
        "import sys; from lmcl_core import load_benchmark; from lmcl_core.data.store import ImageStore;"
        "t = load_benchmark('livec', sys.argv[1]); s = ImageStore.open(t);"
        "print(sum(int(s.image(i).sum()) for i in range(len(s))))"
    )
    command = [sys.executable, "-c", code, table.attrs["root"]]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = {int(process.communicate(timeout=120)[0]) for process in running}
    assert sums == {sum(int(decode(path_of(table, row)).sum()) for row in range(len(table)))}
    assert len(stored()) == 2


@pytest.mark.parametrize("where", ["free", "fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind_and_the_next_build_succeeds(table, monkeypatch, where):
    with monkeypatch.context() as full:
        if where == "free":
            usage = namedtuple("usage", "total used free")(10**12, 10**12, 10)
            full.setattr(shutil, "disk_usage", lambda path: usage)
        else:
            full.setattr(os, where, no_room)
        with pytest.raises(RunError, match=r"disk full while saving .*free some space"):
            ImageStore.open(table)
    assert stored() == []
    assert np.array_equal(ImageStore.open(table).image(7).numpy(), decode(path_of(table, 7)))
