"""Image files, PIL images and arrays as upright 8-bit RGB pixels."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..common.errors import InputError

if TYPE_CHECKING:  # functions import torch themselves, because reading labels does not need it
    import pandas as pd
    from torch import Tensor

SUFFIXES = {".bmp", ".jpg", ".jpeg", ".png"}  #: image files of the benchmarks
_OTHER_SUFFIXES = {".avif", ".gif", ".jfif", ".jp2", ".jpe", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}
_UNSUPPORTED_SUFFIXES = {".heic", ".heif", ".jxl"}  # image formats that Pillow cannot decode

#: Files that are scored in a folder. Unsupported formats are included, so that they are reported.
SCORED_SUFFIXES = SUFFIXES | _OTHER_SUFFIXES | _UNSUPPORTED_SUFFIXES

_ERRORS = OSError, RuntimeError, SyntaxError, ValueError, TypeError, EOFError, IndexError, struct.error, zlib.error
DAMAGED = (*_ERRORS, Image.DecompressionBombError)  #: exceptions that Pillow raises for damaged files

_LARGE = 16_000_000  # pixels; threads decode images above this size one at a time, to limit memory
_LARGE_IMAGE_LOCK = threading.Lock()


def images_below(folder: Path) -> list[Path]:
    """Image files below a folder at any depth, sorted; hidden files and folders and ``__MACOSX`` are skipped.

    Links are followed and every folder is searched once. Dangling links and folders without read permission are
    included, so that they are reported.
    """
    found, unreadable, visited = [], [], set()
    walk = os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename)), followlinks=True)
    for place, folders, names in walk:
        if (real := os.path.realpath(place)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        found += [Path(place, name) for name in names if not name.startswith(".")]
    images = [path for path in found if path.suffix.lower() in SCORED_SUFFIXES]
    # neither pipes nor devices, on which reading would block
    return sorted([*unreadable, *(path for path in images if os.path.isfile(path) or not os.path.exists(path))])


def load_rgb(item: str | Path | Image.Image | np.ndarray, short_side: int | None = None) -> Tensor:
    """Read a path, PIL image or array as a (H, W, 3) uint8 RGB tensor, resized by `shrink` if `short_side` is given.

    Arrays are uint8, (H, W) or (H, W, C), where C = 1 is grey, 2 grey and alpha, 3 RGB, 4 RGBA; alpha is ignored.
    Anything else raises `InputError`.
    """
    if isinstance(item, (str, Path)):
        with open_image(item) as image:
            return _to_tensor(image, item, short_side)
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.size:
        if item.ndim == 2 or item.ndim == 3 and item.shape[2] in (1, 2, 3, 4):
            colours = item[..., 0] if item.ndim == 3 and item.shape[2] < 3 else item
            return _to_tensor(Image.fromarray(colours), "image", short_side)
    if isinstance(item, Image.Image):
        return _to_tensor(item, getattr(item, "filename", None) or "image", short_side)
    what = f"{item.dtype} array {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
    raise InputError(f"cannot read {what}: pass a path, a PIL image or a uint8 array (H, W) or (H, W, 1 to 4)")


def _to_tensor(image: Image.Image, name: object, short_side: int | None) -> Tensor:
    import torch

    with _LARGE_IMAGE_LOCK if image.width * image.height > _LARGE else nullcontext():
        return torch.from_numpy(shrink(to_rgb(image, name), short_side).copy())


def decode(path: str | Path) -> np.ndarray:
    """Decode an image file as upright (H, W, 3) uint8 RGB; `InputError` if it is missing or cannot be decoded."""
    with open_image(path) as image:
        return to_rgb(image, path)


def to_rgb(image: Image.Image, name: object = "image") -> np.ndarray:
    """Convert a PIL image of any mode to (H, W, 3) uint8 RGB; `name` stands in error messages.

    16-bit grey is scaled to 8 bits, transparency is dropped, and the EXIF rotation is applied. An image that cannot be
    decoded, or holds floating-point pixels, raises `InputError`.
    """
    try:
        image.load()  # the mode of some formats is known only after decoding
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise InputError(f"image {name} has floating-point pixels of unknown range: save it with 8 or 16 bits")
        if image.mode == "I" or image.mode.startswith("I;16"):
            grey = np.asarray(image).astype(np.float64)
            deep = image.mode != "I" or grey.max() > 255  # mode "I" may also hold 8-bit values
            grey = np.clip(np.rint(grey / 257 if deep else grey), 0, 255)
            return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        if image.mode == "La":  # Pillow converts it only to LA
            image = image.convert("LA")
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except InputError:
        raise
    except DAMAGED as error:
        raise _unreadable(name, error) from error


def open_image(path: str | Path) -> Image.Image:
    """Open an image file and read its header; `InputError` if it is missing, unreadable or not an image."""
    if not str(path):
        raise InputError("the path of an image is empty: name an image file")
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"folder {path} is not readable: give yourself permission to read it")
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would block
        raise InputError(f"unreadable image {path}: it is not a file; pass an image file")
    return _open(path, path)


def from_bytes(content: bytes, name: object) -> Image.Image:
    """Open the content of an image file, as `open_image`; `name` stands in error messages."""
    image = _open(io.BytesIO(content), name)
    image.filename = str(name)
    return image


def _open(source: str | Path | io.BytesIO, name: object) -> Image.Image:
    try:
        return Image.open(source)
    except FileNotFoundError as error:
        raise InputError(f"missing image {name}: check its path, or unpack its archive again") from error
    except PermissionError as error:
        raise InputError(f"image {name} is not readable: give yourself permission to read it") from error
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f"image {name} has more than {limit} megapixels: save it in a smaller size") from error
    except DAMAGED as error:
        raise _unreadable(name, error) from error


def _unreadable(name: object, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.errno is not None:  # the system failed, and the file may be intact
        return InputError(f"image {name} cannot be read: {error.strerror}; check the path and this process's limits")
    if Path(str(name)).suffix.lower() in _UNSUPPORTED_SUFFIXES:
        return InputError(f"unreadable image {name}: this format is not supported; convert it, for example to PNG")
    reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
    return InputError(f"unreadable image {name} ({reason}): it is damaged or not an image; fetch this file again")


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of an image file after its EXIF rotation, from its header alone."""
    with open_image(path) as image:
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except DAMAGED as error:
            raise _unreadable(path, error) from error
        return image.size if turned else image.size[::-1]


def median_short_side(table: pd.DataFrame, sample: int = 30) -> int:
    """Median short side in pixels of at most `sample` images of a table, from their headers alone."""
    rows = np.linspace(0, len(table) - 1, min(sample, len(table))).astype(int)
    paths = [Path(table.attrs["root"]) / image for image in table["image"].iloc[rows]]
    return int(np.median([min(upright_size(path)) for path in paths]))


def shrunk(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width in pixels after `shrink`."""
    if short_side is None or min(height, width) <= short_side:
        return height, width
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def shrink(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    """Shrink a (H, W, 3) uint8 image to a short side of `short_side` pixels, with an antialiased bicubic filter.

    An image that is not larger is returned unchanged; so is every image if `short_side` is None.
    """
    height, width = shrunk(*pixels.shape[:2], short_side)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def resize_crop(pixels: Tensor, size: int) -> Tensor:
    """Resize a (H, W, 3) uint8 crop to the model's input size (S, S, 3), with an antialiased bilinear filter.

    The filter uses integers on a CPU and float32 on a GPU; the results differ by at most one level.
    """
    import torch.nn.functional as F

    if pixels.shape[:2] == (size, size):
        return pixels
    chw = pixels.permute(2, 0, 1)[None]  # (1, 3, H, W), channels last in memory
    if pixels.device.type != "cpu":
        return _in_float32(chw, size)[0].permute(1, 2, 0)
    return F.interpolate(chw, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def _in_float32(chw: Tensor, size: int) -> Tensor:
    """(1, 3, H, W) -> (1, 3, S, S), both uint8, for devices without an integer filter."""
    import torch
    import torch.nn.functional as F

    resized = F.interpolate(chw.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
