"""Image files, PIL images and arrays as upright 8-bit sRGB pixels."""

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
from PIL import ExifTags, Image, UnidentifiedImageError

from ..common.errors import InputError, first_line
from .colour import to_srgb
from .formats import ImageError, check_bytes, check_image, open_any, refusal

if TYPE_CHECKING:  # functions import torch themselves, because reading labels does not need it
    import pandas as pd
    from torch import Tensor

SUFFIXES = {".bmp", ".jpg", ".jpeg", ".png"}  #: image files of the benchmarks
_OTHER_SUFFIXES = {".avif", ".gif", ".jfif", ".jp2", ".jpe", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}
_PLUGIN_SUFFIXES = {".heic", ".heif", ".jxl"}  # formats that Pillow decodes only with a plugin

#: Files that are scored in a folder. Formats that need a plugin are included, so that they are reported.
SCORED_SUFFIXES = SUFFIXES | _OTHER_SUFFIXES | _PLUGIN_SUFFIXES

_ERRORS = OSError, RuntimeError, SyntaxError, ValueError, TypeError, EOFError, IndexError, struct.error, zlib.error
DAMAGED = (*_ERRORS, Image.DecompressionBombError)  #: exceptions that Pillow raises for damaged files

_TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))  # by EXIF orientation
_LARGE = 16_000_000  # pixels; threads decode images above this size one at a time, to limit memory
_BAND = 1024  # rows
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
    import torch

    if isinstance(item, (str, Path)):
        return torch.from_numpy(decode(item, short_side))
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.size:
        if item.ndim == 2 or item.ndim == 3 and item.shape[2] in (1, 2, 3, 4):
            item = Image.fromarray(item[..., 0] if item.ndim == 3 and item.shape[2] < 3 else item)
    if isinstance(item, Image.Image):
        return torch.from_numpy(to_rgb(item, getattr(item, "filename", None) or "image", short_side))
    what = f"{item.dtype} array {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
    raise InputError(f"cannot read {what}: pass a path, a PIL image or a uint8 array (H, W) or (H, W, 1 to 4)")


def decode(path: str | Path, short_side: int | None = None) -> np.ndarray:
    """Decode an image file as upright (H, W, 3) uint8 RGB; `InputError` if it is missing or cannot be decoded."""
    with open_image(path) as image:
        return to_rgb(image, path, short_side, close=True)


def to_rgb(
    image: Image.Image, name: object = "image", short_side: int | None = None, close: bool = False
) -> np.ndarray:
    """Convert a PIL image of any mode to (H, W, 3) uint8 sRGB, resized by `shrink`; `name` stands in error messages.

    16-bit grey is scaled to 8 bits, transparency is dropped, and colour profile and EXIF rotation are applied. With
    `close` the image is closed as early as possible, which limits memory. An image that cannot be decoded, is too
    large, or holds floating-point pixels raises `InputError`.
    """
    check_image(image, name)
    try:
        with _LARGE_IMAGE_LOCK if image.width * image.height > _LARGE else nullcontext():
            image.load()  # the mode of some formats is known only after decoding
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            rgb = to_srgb(_in_8_bits(image, name), name)
            if close and rgb is not image:
                image.close()
            if orientation in _TURNS:
                rgb = rgb.transpose(_TURNS[orientation])
            return _array(_resized(rgb, *shrunk(rgb.height, rgb.width, short_side)))
    except InputError:
        raise
    except Exception as error:  # plugins and damaged files raise almost any
        raise _unreadable(name, error) from error


def _in_8_bits(image: Image.Image, name: object) -> Image.Image:
    """Reduce grey of 16 or 32 bits to 8 bits."""
    if image.mode == "F":
        raise ImageError(name, "has floating-point pixels of unknown range", "save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image)
        deep = image.mode != "I" or grey.max() > 255  # mode "I" may also hold 8-bit values
        scaled = np.empty(grey.shape, dtype=np.uint8)
        for row, values in enumerate(grey):  # by rows, because float64 takes eight bytes a pixel
            scaled[row] = np.clip(np.rint(values / 257.0 if deep else values), 0, 255)
        info, image = image.info, Image.fromarray(scaled)
        image.info = info
    return image.convert("LA") if image.mode == "La" else image  # Pillow converts La only to LA


def _array(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 pixels, copied in bands, because a conversion at once takes twice the memory."""
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, _BAND):
        bottom = min(top + _BAND, image.height)
        pixels[top:bottom] = image.crop((0, top, image.width, bottom))
    return pixels


def open_image(path: str | Path) -> Image.Image:
    """Open an image file and read its header. InputError: it is missing, unreadable, no image or too large."""
    try:
        named = str(path) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        named = False
    if not named:
        raise InputError(f"the path of an image is {str(path)!r}: name an image file")
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"folder {path} is not readable: give yourself permission to read it")
    if os.path.exists(path):
        if not os.path.isfile(path):  # reading a pipe would block
            raise InputError(f"unreadable image {path}: it is not a file; pass an image file")
        check_bytes(os.path.getsize(path), path)
    return _open(path, path)


def from_bytes(content: bytes, name: object) -> Image.Image:
    """Open the content of an image file, as `open_image`; `name` stands in error messages."""
    image = _open(io.BytesIO(content), name)
    image.filename = str(name)
    return image


def _open(source: str | Path | io.BytesIO, name: object) -> Image.Image:
    try:
        image = open_any(source)
    except FileNotFoundError as error:
        raise InputError(f"missing image {name}: check its path, or download or unpack it again") from error
    except PermissionError as error:
        raise InputError(f"image {name} is not readable: give yourself permission to read it") from error
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise ImageError(name, f"has more than {limit} megapixels", "save it in a smaller size") from error
    except Exception as error:
        raise _unreadable(name, error, source) from error
    try:
        check_image(image, name)
    except ImageError:
        image.close()
        raise
    return image


def _unreadable(name: object, error: Exception, source: str | Path | io.BytesIO | None = None) -> InputError:
    if isinstance(error, MemoryError):
        fix = "close other programs, or save it in a smaller size"
        return ImageError(name, "needs more memory than is free", fix)
    if isinstance(error, OSError) and error.errno is not None:  # the system failed, and the file may be intact
        return InputError(f"image {name} cannot be read: {error.strerror}; check the path and this process's limits")
    if source is not None and (refused := refusal(source, name)):
        return refused
    reason = "unknown format" if isinstance(error, UnidentifiedImageError) else first_line(error)
    return InputError(f"unreadable image {name} ({reason}): it is damaged or not an image; download or copy it again")


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
    return np.asarray(_resized(Image.fromarray(pixels), height, width))


def _resized(image: Image.Image, height: int, width: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def resize_crop(pixels: Tensor, size: int) -> Tensor:
    """Resize a (H, W, 3) uint8 crop to the model's input size (S, S, 3), with an antialiased bilinear filter.

    The filter uses integers on a CPU and float32 on a GPU; the results differ by at most one level.
    """
    import torch.nn.functional as F

    if pixels.shape[:2] == (size, size):
        return pixels
    chw = pixels.permute(2, 0, 1)[None]  # (1, 3, H, W), channels last in memory
    on_cpu = pixels.device.type == "cpu"
    resized = F.interpolate(chw if on_cpu else chw.float(), (size, size), mode="bilinear", antialias=True)
    return (resized if on_cpu else resized.round().clamp(0, 255).byte())[0].permute(1, 2, 0)
