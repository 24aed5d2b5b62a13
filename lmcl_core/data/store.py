"""Decoded images in one memory-mapped uint8 file; crops are views into it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..common.errors import InputError
from ..common.files import atomic_write, file_lock
from ..common.paths import cache_folder
from ..common.prefetch import prefetch_map
from ..common.progress import Log, bar
from .identity import data_hash, image_keys, image_stats
from .images import decode, resize_crop, shrunk, upright_size

VERSION = 1  # part of the hash in the file names; raise it when decoding or resizing changes
GPU_SHARE = 0.5  # of a GPU's free memory that the store may take; the rest is for activations


class ImageStore:
    """All images of a table in one flat uint8 array, each stored as (H, W, 3); `heights`, `widths` are (n,) pixels."""

    def __init__(
        self, pixels: np.ndarray | Tensor, heights: Sequence[int], widths: Sequence[int], path: Path | None = None
    ) -> None:
        self.heights, self.widths, self.path = torch.as_tensor(heights).long(), torch.as_tensor(widths).long(), path
        self._pixels = torch.as_tensor(pixels)
        self._ends = torch.cumsum(self.heights * self.widths * 3, dim=0).tolist()

    @classmethod
    def open(
        cls, table: pd.DataFrame, short_side: int | None = None, cache: Path | None = None, log: Log = lambda line: None
    ) -> ImageStore:
        """Open the store of a table, in which image i is row i; on first use all images are decoded.

        `short_side` is that of `images.shrink`; `cache` is the parent folder of all stores; `log` is called with the
        size of the store before images are decoded. InputError: an image is missing or cannot be decoded.
        """
        paths, index = _locate(table, short_side, cache)
        if _read_sizes(index) is None:
            with file_lock(index.with_suffix(".lock")):
                if _read_sizes(index) is None:  # another process may have built it meanwhile
                    _build(paths, index, short_side, log)
        return cls._mapped(index.with_suffix(".u8"), *_read_sizes(index).T)

    @classmethod
    def _mapped(cls, path: Path, heights: Sequence[int], widths: Sequence[int]) -> ImageStore:
        return cls(np.memmap(path, dtype=np.uint8, mode="c"), heights, widths, path)

    def __reduce__(self) -> tuple:
        """Another process maps the file again."""
        return ImageStore._mapped, (self.path, self.heights.numpy(), self.widths.numpy())

    @staticmethod
    def is_built(table: pd.DataFrame, short_side: int | None = None) -> bool:
        """Whether `open` would find the store on disk."""
        return _read_sizes(_locate(table, short_side)[1]) is not None

    def on(self, device: torch.device) -> ImageStore:
        """A copy in a GPU's memory; the store itself for other devices, or if it exceeds `GPU_SHARE` of free memory."""
        if device.type != "cuda" or self._pixels.numel() > GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            return self
        return ImageStore(self._pixels.to(device), self.heights, self.widths)

    def check_crop_size(self, size: int) -> int:
        """Number of images that are smaller than a crop, which is then enlarged; `InputError` if all are smaller."""
        sides = torch.minimum(self.heights, self.widths)
        if (largest := int(sides.max())) < size:
            raise InputError(f"recipe field crop_size is {size}: every image is smaller, choose at most {largest}")
        return int((sides < size).sum())

    def __len__(self) -> int:
        return len(self.heights)

    def image(self, index: int) -> Tensor:
        """Image `index` as a (H, W, 3) uint8 view, on the device of the store."""
        height, width = int(self.heights[index]), int(self.widths[index])
        end = self._ends[index]
        return self._pixels[end - height * width * 3 : end].view(height, width, 3)

    def crops(self, indices: Sequence[int] | Tensor, boxes: Tensor, size: int, flips: Tensor | None = None) -> Tensor:
        """Gather crops of images (B,), resized to (B·K, 3, S, S) uint8, channels last, on the device of the store.

        `boxes` (B, K, 4) int64 hold top, left, height, width in image pixels, `flips` (B, K) bool which to mirror.
        """
        B, K, _ = boxes.shape
        out = torch.empty(B * K, size, size, 3, dtype=torch.uint8, device=self._pixels.device)
        for n, (top, left, height, width) in enumerate(boxes.flatten(0, 1).tolist()):
            image = self.image(int(indices[n // K]))
            crop = resize_crop(image[top : top + height, left : left + width], size)
            out[n] = crop.flip(1) if flips is not None and flips[n // K, n % K] else crop
        return out.permute(0, 3, 1, 2)

    def whole(self, indices: Sequence[int] | Tensor, size: int) -> Tensor:
        """Global views: whole images resized to (B, 3, S, S) uint8 without keeping their shape, to locate saliency."""
        indices = torch.as_tensor(indices)
        sizes = torch.stack([self.heights[indices], self.widths[indices]], dim=-1)
        return self.crops(indices, torch.cat([torch.zeros_like(sizes), sizes], dim=-1)[:, None], size)


def _locate(table: pd.DataFrame, short_side: int | None, cache: Path | None = None) -> tuple[list[Path], Path]:
    """The image files of a table and the index file of its store.

    Its name holds the data hash, and a hash of the order of the images, the short side and the file times. The latter
    include the inode change time (ctime), because unpacking an archive restores old modification times.
    """
    stats = image_stats(table)
    paths = [Path(table.attrs["root"]) / image for image in table["image"]]
    times = [[key, stat.st_mtime_ns, stat.st_ctime_ns] for key, stat in zip(image_keys(table), stats)]
    digest = hashlib.sha256(json.dumps([VERSION, short_side, times]).encode()).hexdigest()[:8]
    return paths, (cache or cache_folder()) / "store" / f"{data_hash(table)}-{digest}.json"


def _read_sizes(index: Path) -> np.ndarray | None:
    """Heights and widths (n, 2) from the index; None if the store is missing or incomplete."""
    try:
        sizes = np.array(json.loads(index.read_text()), dtype=np.int64).reshape(-1, 2)
        stored = index.with_suffix(".u8").stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    return sizes if stored == 3 * sizes.prod(axis=1).sum() else None


def _build(paths: Sequence[Path], index: Path, short_side: int | None, log: Log) -> None:
    """Decode all images into the store; the index is written last, and a store without it counts as missing."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        sizes = [shrunk(*size, short_side) for size in pool.map(upright_size, paths)]
    total = sum(height * width * 3 for height, width in sizes)
    for leftover in index.parent.glob(f".{index.stem}.*-*"):  # of a killed process; this one holds the lock
        leftover.unlink(missing_ok=True)
    log(f"decoding {len(paths)} images once: {total / 1e9:.2f} GB in the cache")
    with atomic_write(index.with_suffix(".u8")) as temporary, open(temporary, "wb") as file:
        if shutil.disk_usage(temporary.parent).free < total:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        decoded = prefetch_map(lambda path: decode(path, short_side), paths, threads, 8 * threads, np.size)
        for path, size, pixels in bar(zip(paths, sizes, decoded), len(paths), "decoding"):
            if pixels.shape[:2] != size:
                raise InputError(f"unreadable image {path}: header and pixels disagree; download or copy it again")
            file.write(np.ascontiguousarray(pixels))
    with atomic_write(index) as temporary:
        temporary.write_text(json.dumps(sizes))
