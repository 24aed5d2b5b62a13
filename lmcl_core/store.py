"""Every picture decoded once into one flat, memory-mapped uint8 file; crops are gathers from it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .ahead import mapped
from .crops import resize_crop
from .errors import InputError, save_failed
from .files import replacing
from .locks import alone
from .paths import cache_folder
from .pictures import DAMAGED, decode, open_picture, shrink, shrunk
from .progress import bar
from .splits import data_hash, tail, tail_length


VERSION = 1  # part of a store's name; to be raised when pictures are decoded or shrunk otherwise

#: Bytes of pixels after which the disk is told to write, while further pictures are decoded.
PORTION = 2**26

#: Share of a GPU's free memory that decoded pictures may take; the rest is left to the network's activations.
GPU_SHARE = 0.5


class PictureStore:
    """All pictures of a table as one flat array of pixels.

    Args:
        pixels: (total bytes,) uint8 array or tensor, pictures one after another, each (H, W, 3) row by row.
        heights: (n,) int64, in pixels.
        widths: (n,) int64.
    """

    def __init__(self, pixels: np.ndarray | Tensor, heights: Sequence[int], widths: Sequence[int]) -> None:
        self.heights, self.widths = torch.as_tensor(heights).long(), torch.as_tensor(widths).long()
        self._pixels = torch.as_tensor(pixels)
        self._ends = torch.cumsum(self.heights * self.widths * 3, dim=0).tolist()

    @classmethod
    def open(
        cls,
        table: pd.DataFrame,
        short_side: int | None = None,
        cache: str | Path | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> PictureStore:
        """Map the store of a table, decoding its pictures first where that has not been done.

        Args:
            table: from `load_benchmark`.
            short_side: larger pictures are brought to this short side, as in `pictures.shrink`.
            cache: where stores are kept; None for that of `cache_folder`.
            log: called with a line that tells the size, before pictures are decoded.

        Returns:
            The store; row i of the table is picture i.

        Raises:
            InputError: a picture cannot be decoded.
            RunError: the store cannot be saved.
        """
        paths, index = _places(table, short_side, cache)
        if not _is_whole(index):
            with alone(index.with_suffix(".lock")):
                if not _is_whole(index):  # somebody else may just have built it
                    _build(paths, index, short_side, log)
        sizes = np.array(json.loads(index.read_text()), dtype=np.int64)
        return cls(np.memmap(index.with_suffix(".u8"), dtype=np.uint8, mode="c"), sizes[:, 0], sizes[:, 1])

    @staticmethod
    def is_built(table: pd.DataFrame, short_side: int | None = None) -> bool:
        """Whether `open` would find the pictures decoded; arguments as there."""
        return _is_whole(_places(table, short_side)[1])

    def on(self, device: torch.device) -> PictureStore:
        """All pixels in a GPU's memory, where they take no more than `GPU_SHARE` of what is free there.

        Args:
            device: where crops are wanted.

        Returns:
            A store whose pictures and crops are on that GPU; this one where they do not fit, or for another device.
        """
        if device.type != "cuda" or self._pixels.numel() > GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            return self
        return PictureStore(self._pixels.to(device), self.heights, self.widths)

    def __len__(self) -> int:
        return len(self.heights)

    def picture(self, index: int) -> Tensor:
        """Picture `index` as a (H, W, 3) uint8 view, where the store is."""
        height, width = int(self.heights[index]), int(self.widths[index])
        end = self._ends[index]
        return self._pixels[end - height * width * 3 : end].view(height, width, 3)

    def crops(self, indices: Sequence[int] | Tensor, boxes: Tensor, size: int, flips: Tensor | None = None) -> Tensor:
        """Gather crops and bring them to the model's size.

        Args:
            indices: (B,) picture numbers.
            boxes: (B, K, 4) int64 boxes.
            size: S in pixels.
            flips: (B, K) bool, which crops to mirror; None mirrors none.

        Returns:
            (B·K, 3, S, S) uint8, channels last in memory, where the store is.
        """
        B, K, _ = boxes.shape
        out = torch.empty(B * K, size, size, 3, dtype=torch.uint8, device=self._pixels.device)
        for n, (top, left, height, width) in enumerate(boxes.flatten(0, 1).tolist()):
            picture = self.picture(int(indices[n // K]))
            crop = resize_crop(picture[top : top + height, left : left + width], size)
            out[n] = crop.flip(1) if flips is not None and flips[n // K, n % K] else crop
        return out.permute(0, 3, 1, 2)

    def whole(self, indices: Sequence[int] | Tensor, size: int) -> Tensor:
        """The global view: whole pictures squeezed to (B, 3, S, S) uint8; it only serves to locate saliency."""
        indices = torch.as_tensor(indices)
        heights, widths = self.heights[indices], self.widths[indices]
        boxes = torch.stack([torch.zeros_like(heights), torch.zeros_like(heights), heights, widths], dim=-1)
        return self.crops(indices, boxes[:, None], size)


def _places(table: pd.DataFrame, short_side: int | None, cache: str | Path | None = None) -> tuple[list[Path], Path]:
    """The picture files of a table, and the index of their store."""
    paths = [Path(table.attrs["root"]) / image for image in table["image"]]
    return paths, Path(cache or cache_folder()) / "store" / f"{_key(table, paths, short_side)}.json"


def _key(table: pd.DataFrame, paths: Sequence[Path], short_side: int | None) -> str:
    """Name of the store: the data hash, and what it does not see: order, times of change, short side and decoder.

    Archives give their files back the old times of change; that of the last change of the file's entry tells.
    """
    try:
        states = [path.stat() for path in paths]
    except OSError as error:
        raise InputError(f"missing image {error.filename}: unpack the archive again") from error
    length = tail_length(table["image"])
    names = [tail(image, length) for image in table["image"]]
    times = [[name, state.st_mtime_ns, state.st_ctime_ns] for name, state in zip(names, states)]
    return f"{data_hash(table)}-{hashlib.sha256(json.dumps([VERSION, short_side, times]).encode()).hexdigest()[:8]}"


def _build(paths: Sequence[Path], index: Path, short_side: int | None, log: Callable[[str], None]) -> None:
    """Decode into a temporary file whose room is reserved first; the index, written last, makes it valid."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        shapes = [shrunk(*size, short_side) for size in pool.map(upright_size, paths)]
    total = sum(height * width * 3 for height, width in shapes)
    _clear(index)
    log(f"decoding {len(paths)} pictures, once: {total / 1e9:.2f} GB in the cache")
    with replacing(index.with_suffix(".u8")) as temporary:
        _reserve(temporary, total)
        pictures = mapped(lambda path: shrink(decode(path), short_side), paths, threads, 8 * threads)
        _fill(temporary, _checked(bar(pictures, len(paths), "decoding"), paths, shapes))
    with replacing(index) as temporary:
        temporary.write_text(json.dumps(shapes))


def _checked(
    pictures: Iterable[np.ndarray], paths: Sequence[Path], shapes: Sequence[tuple[int, int]]
) -> Iterator[np.ndarray]:
    """The pictures, of which none may be larger or smaller than its header says."""
    for path, shape, picture in zip(paths, shapes, pictures):
        if picture.shape[:2] != shape:
            raise InputError(f"unreadable image {path}: header and pixels disagree: fetch this file again")
        yield picture


def _fill(path: Path, pictures: Iterable[np.ndarray]) -> None:
    """Write pixels one after another, and see to it that the disk has them; it works while pictures are awaited."""
    flat, start, given = np.memmap(path, dtype=np.uint8, mode="r+"), 0, 0
    with open(path, "r+b") as file, ThreadPoolExecutor(1) as disk:
        writing = disk.submit(os.fsync, file.fileno())
        for picture in pictures:
            flat[start : start + picture.size] = picture.ravel()
            start += picture.size
            if start - given >= PORTION and writing.done():
                writing.result()
                writing, given = disk.submit(os.fsync, file.fileno()), start
        writing.result()
        flat.flush()


def _clear(index: Path) -> None:
    """Take away what a builder that was killed left of this store: who builds it alone holds its lock."""
    for left in index.parent.glob(f".{index.stem}.*-*"):
        try:
            left.unlink(missing_ok=True)
        except OSError as error:
            raise save_failed(left, error) from error


def _reserve(path: Path, size: int) -> None:
    """Claim room on the disk now: a memory map of a full disk ends in a crash, not in an error."""
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        elif shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            file.truncate(max(size, 1))


def _is_whole(index: Path) -> bool:
    """Whether index and pixels are there and fit one another."""
    pixels = index.with_suffix(".u8")
    if not index.is_file() or not pixels.is_file():
        return False
    try:
        sizes = json.loads(index.read_text())
    except ValueError:  # a damaged index: the store is built anew
        return False
    return pixels.stat().st_size == max(1, sum(height * width * 3 for height, width in sizes))


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture turned upright, in pixels, from its header alone.

    Args:
        path: the file.

    Raises:
        InputError: it is missing or damaged.
    """
    with open_picture(path) as picture:
        width, height = picture.size
        try:
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except DAMAGED as error:
            raise InputError(f"unreadable image {path} ({error}): fetch this file again") from error
    return (width, height) if turned else (height, width)
