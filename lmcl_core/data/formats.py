"""Which image files are read: limits of size, formats known by their first bytes, layouts of TIFF files."""

from __future__ import annotations

import importlib
import warnings
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, features

from ..common.errors import InputError

MOST_SIDE = 65_535  #: pixels of the longer side; JPEG files cannot be larger
MOST_BYTES = 2_400_000_000  #: of memory for decoding one image, estimated from its header; also bytes of a file

#: Bytes of memory a pixel while an image is decoded and converted, by format: the most that was measured.
_BYTES_A_PIXEL = {"JPEG2000": 26, "AVIF": 26, "HEIF": 26, "JXL": 26, "WEBP": 26}
_OTHERS = 13

# Text beside the pixels, such as the workflow of an image generator, must not make a PNG file unreadable.
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 2**26, 2**28

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_JXL = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_TIFF = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
#: Package and module that read a format which Pillow may lack.
_PLUGINS = {
    "HEIC": ("pillow-heif", "pillow_heif"),
    "AVIF": ("pillow-avif-plugin", "pillow_avif"),
    "JPEG XL": ("pillow-jxl-plugin", "pillow_jxl"),
}
_SAMPLES = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}


class ImageError(InputError):
    """An intact image file that is not read. `problem` is what is wrong, `fix` what to do."""

    def __init__(self, name: object, problem: str, fix: str) -> None:
        super().__init__(f"image {name} {problem}: {fix}")
        self.name, self.problem, self.fix = str(name), problem, fix

    def __reduce__(self) -> tuple:
        return type(self), (self.name, self.problem, self.fix)


def open_any(source: str | Path | BytesIO) -> Image.Image:
    """`PIL.Image.open`, also for formats of installed plugins; Pillow's warnings, which name no file, are silenced."""
    warnings.filterwarnings("ignore", module="PIL")
    try:
        return Image.open(source)
    except UnidentifiedImageError:
        if not _register(format_of(first_bytes(source))):
            raise
        return Image.open(source)


def _register(form: str | None) -> bool:
    """Import the plugin of a format; whether this format can be read."""
    if form == "AVIF" and features.check("avif"):
        return True
    try:
        module = importlib.import_module(_PLUGINS[form][1])
    except (ImportError, KeyError):
        return False
    getattr(module, "register_heif_opener", bool)()
    return True


def first_bytes(source: str | Path | BytesIO, count: int = 64) -> bytes:
    """The first bytes of a file or of its content."""
    if isinstance(source, BytesIO):
        return source.getvalue()[:count]
    with open(source, "rb") as file:
        return file.read(count)


def format_of(head: bytes) -> str | None:
    """HEIC, AVIF, JPEG XL or TIFF by the first bytes of a file; None for anything else."""
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[n : n + 4] for n in range(16, min(len(head), int.from_bytes(head[:4])), 4))}
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIC" if brands & _HEIC else None
    if head.startswith(_JXL):
        return "JPEG XL"
    return "TIFF" if head.startswith(_TIFF) else None


def refusal(source: str | Path | BytesIO, name: object) -> ImageError | None:
    """Why an intact file cannot be opened, by its first bytes; None if it is damaged or no image."""
    form = format_of(first_bytes(source))
    if form == "TIFF":
        return _tiff_refusal(source, name)
    if form is None or _register(form):
        return None
    package = _PLUGINS[form][0]
    return ImageError(name, f"is a file in the format {form}", f"run `pip install {package}`, or convert it to PNG")


def check_image(image: Image.Image, name: object) -> None:
    """Raise `ImageError` for an image that would need too much memory, or whose pixels Pillow would misread."""
    width, height = image.size
    cost = _BYTES_A_PIXEL.get(image.format, _OTHERS)
    if max(width, height) > MOST_SIDE:
        problem = f"has {width} x {height} pixels, more than {MOST_SIDE} on one side"
        raise ImageError(name, problem, "save it in a smaller size, or cut it into parts")
    if width * height * cost > MOST_BYTES:
        problem = f"has more than {MOST_BYTES // cost // 10**6} megapixels"
        raise ImageError(name, problem, "save it in a smaller size")
    if image.format == "PNG" and image.fp and _is_hdr(image.fp):
        raise ImageError(name, "is an HDR picture (PQ or HLG)", "save it as SDR, in sRGB")
    if image.format == "TIFF" and (layout := _odd_layout(image.tag_v2)):
        raise _refused_layout(name, layout)


def _is_hdr(file: BinaryIO) -> bool:
    """Whether the cICP chunk of a PNG file, which Pillow does not read, names the transfer function of PQ or HLG."""
    place = file.tell()
    file.seek(0)
    chunk = file.read(4096).partition(b"IDAT")[0].partition(b"cICP")[2]
    file.seek(place)
    return chunk[1:2] in (b"\x10", b"\x12")


def check_bytes(count: int, name: object) -> None:
    """Raise `ImageError` for a file that is too large to be read at once."""
    if count > MOST_BYTES:
        raise ImageError(name, f"is a file of {count / 1e9:.1f} GB", "save it in a smaller size")


def _tiff_refusal(source: str | Path | BytesIO, name: object) -> ImageError | None:
    if first_bytes(source).startswith(b"MM\0+"):
        return _refused_layout(name, "64-bit offsets in big-endian order")
    try:
        with open(source, "rb") if not isinstance(source, BytesIO) else BytesIO(source.getvalue()) as file:
            head = file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(head + (file.read(8) if b"+" in head[:4] else b""))
            file.seek(tags.next)
            tags.load(file)
            return _refused_layout(name, _odd_layout(tags) or "an unusual layout of pixels") if 256 in tags else None
    except Exception:  # damaged
        return None


def _refused_layout(name: object, layout: str) -> ImageError:
    return ImageError(name, f"is a TIFF file with {layout}", "save it with 8 bits a channel, for example as PNG")


def _odd_layout(tags: TiffImagePlugin.ImageFileDirectory_v2) -> str | None:
    """What of a TIFF file's pixels Pillow cannot read, or reads wrong; None for the others."""
    bits, kinds = ({*_tuple(tags.get(tag, 1))} for tag in (258, 339))
    channels, planar, photometric = tags.get(277, 1), tags.get(284, 1), tags.get(262, 1)
    if odd := [_SAMPLES[kind] for kind in kinds if kind in _SAMPLES]:
        return f"pixels that are {odd[0]}"
    if not bits <= {1, 2, 4, 8, 16}:
        return f"{max(bits)} bits a channel"
    if 16 in bits and channels > 1 and planar != 1:
        return "16-bit channels that are stored apart"
    if 16 in bits and photometric == 0:
        return "16-bit pixels in which white is zero"
    if photometric not in (0, 1, 2, 3, 5, 6, 8):
        return f"pixels of the photometric kind {photometric}"
    return None


def _tuple(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)
