"""Any picture file or image as upright 8-bit RGB."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .errors import InputError

SUFFIXES = {".bmp", ".jpg", ".jpeg", ".png"}  #: of the pictures of a benchmark

#: Of pictures that Pillow cannot read by itself.
_CLOSED_SUFFIXES = {".heic", ".heif", ".jxl"}

#: Of the pictures that are taken from a folder to be scored, if only to be told that they cannot be read.
SCORED_SUFFIXES = (
    SUFFIXES | {".avif", ".gif", ".jfif", ".jp2", ".jpe", ".pgm", ".ppm", ".tif", ".tiff", ".webp"} | _CLOSED_SUFFIXES
)

#: What Pillow raises for files that are damaged, in one way or another.
DAMAGED = (
    OSError,
    RuntimeError,  # of the AVIF decoder
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def pictures_below(folder: Path) -> list[Path]:
    """Picture files below a folder, sorted, without hidden files and folders and those that archives bring along.

    Links are followed, a folder is searched once. What can only be told to be unreadable is among them: links that
    lead nowhere, folders that may not be opened.

    Args:
        folder: where to look, at any depth.
    """
    found, closed, searched = [], [], set()
    for place, folders, names in os.walk(folder, onerror=lambda error: closed.append(error.filename), followlinks=True):
        real = os.path.realpath(place)
        if real in searched:
            folders.clear()
            continue
        searched.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        found += [Path(place, name) for name in names if Path(name).suffix.lower() in SCORED_SUFFIXES]
    found = [path for path in found if os.path.isfile(path) or not os.path.exists(path)]
    found = [path for path in found if not path.name.startswith(".")]
    return sorted([*found, *map(Path, closed)])


def to_rgb(picture: Image.Image, name: object = "image") -> np.ndarray:
    """A PIL image of any mode as pixels.

    Args:
        picture: 16-bit grey is scaled to 8 bits, not clipped; transparency is dropped; EXIF rotation is applied.
        name: what to call it in an error.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: it cannot be decoded.
    """
    try:
        picture.load()  # some formats say only then what mode they are of
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
        if picture.mode == "F":
            raise InputError(f"image {name} holds floating-point numbers of unknown range: save it with 8 or 16 bits")
        if picture.mode == "I" or picture.mode.startswith("I;16"):
            grey = np.asarray(picture).astype(np.float64)
            deep = picture.mode != "I" or grey.max() > 255  # mode "I" also holds 8-bit values
            grey = np.clip(np.rint(grey / 257 if deep else grey), 0, 255)
            return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        if picture.mode == "La":  # Pillow turns it into LA alone
            picture = picture.convert("LA")
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except InputError:
        raise
    except DAMAGED as error:
        raise _unreadable(name, error) from error


def shrunk(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width after `shrink`.

    Args:
        height: in pixels.
        width: in pixels.
        short_side: as in `shrink`.
    """
    if short_side is None or min(height, width) <= short_side:
        return height, width
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def shrink(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    """Bring a picture whose short side is longer than wanted to that short side, keeping its shape.

    Args:
        pixels: (H, W, 3) uint8.
        short_side: in pixels, >= 1; None leaves every picture as it is.

    Returns:
        (h, w, 3) uint8, by an antialiased bicubic filter; `pixels` itself where nothing is to be done.
    """
    height, width = shrunk(*pixels.shape[:2], short_side)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def decode(path: str | Path) -> np.ndarray:
    """Decode a picture file.

    Args:
        path: the file.

    Returns:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        InputError: it is missing, truncated or no picture.
    """
    with open_picture(path) as picture:
        return to_rgb(picture, path)


def open_picture(path: str | Path) -> Image.Image:
    """Read a picture file's header.

    Args:
        path: the file.

    Returns:
        The opened image, to be closed; its pixels are not decoded yet.

    Raises:
        InputError: it is missing or no picture.
    """
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"folder {path} may not be opened: give yourself permission to read it")
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"unreadable image {path}: it is no file; name a picture")
    return _open(path, path)


def _open(source: str | Path | io.BytesIO, name: object) -> Image.Image:
    try:
        return Image.open(source)
    except FileNotFoundError as error:
        raise InputError(f"missing image {name}: check its path, or unpack its archive again") from error
    except PermissionError as error:
        raise InputError(f"image {name} may not be read: give yourself permission to read it") from error
    except Image.DecompressionBombError as error:
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f"image {name} has more than {most} megapixels: save it in a smaller size") from error
    except DAMAGED as error:
        raise _unreadable(name, error) from error


def from_bytes(content: bytes, name: object) -> Image.Image:
    """Open a picture file that was read from elsewhere.

    Args:
        content: of the file.
        name: what to call it in an error.

    Raises:
        InputError: it is no picture.
    """
    picture = _open(io.BytesIO(content), name)
    picture.filename = str(name)
    return picture


def _unreadable(name: object, error: Exception) -> InputError:
    if Path(str(name)).suffix.lower() in _CLOSED_SUFFIXES:
        return InputError(f"unreadable image {name}: this format is not read; convert it, for example to PNG")
    return InputError(f"unreadable image {name} ({error}): it is damaged or no picture; fetch this file again")
