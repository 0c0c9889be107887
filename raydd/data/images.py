"""Reads images from where they are stored, and opens them as upright RGB on white, regardless of the file's format."""

import io
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from raydd.errors import DataError
from raydd.plain_files import read_file

MOST_BYTES = 2**29  # of an encoded image: as many as Pillow's pixel limit takes in uncompressed 16-bit colour

# Formats of photographs. Pillow's other formats are not allowed: some of them run programs (EPS) or fetch files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# Endings of their files, in lower case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

# How an image with each value of EXIF's orientation is turned upright.
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Largest difference between two channels (0 to 255) in an image that counts as grey: JPEG leaves some in grey images.
GREY_TOLERANCE = 6


class ImageSource(Protocol):
    """Where one image is stored: a file, a row of a Parquet file, or a member of a tar shard. Cheap to pickle."""

    @property
    def name(self) -> str:
        """Name of the image in messages."""
        ...

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            OSError: the image is missing or cannot be read.
        """
        ...

    def stamp(self) -> str:
        """Return a text that changes whenever the image's bytes may have changed, "" if the image is missing.

        It is found without reading the image. It names the file that holds the image (see `file_stamp`) and the
        position inside that file.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image in a file of its own."""

    name: str
    path: str

    def read(self) -> bytes:
        """Return the content of the file."""
        return read_file(self.path, MOST_BYTES)

    def stamp(self) -> str:
        """Return the file's stamp, "" if there is no such file."""
        return file_stamp(self.path)


def file_stamp(path: str) -> str:
    """Return a file's path, size, mtime, ctime and inode, or "" if there is no such file.

    The ctime is included because a program can set the mtime back, but not the ctime.
    """
    try:
        status = os.stat(path)  # noqa: PTH116, a Path costs more than the call
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        return ""
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_size} {times} {status.st_ino} {os.path.abspath(path)}"  # noqa: PTH100


class ImageError(DataError):
    """An image cannot be used. `kind` is one of missing, unreadable, truncated and oversized image."""

    def __init__(self, kind: str, name: str, detail: str) -> None:
        super().__init__(f"{name}: {kind} ({detail}). Correct the image, or leave it out with data.bad_pairs skip.")
        self.kind = kind
        self.detail = detail


def open_image(source: ImageSource) -> Image.Image:
    """Open an image in memory: RGB, turned upright by its EXIF tag, transparent parts on white.

    Raises:
        ImageError: the image is missing, not an image, cut short, damaged, or above Pillow's limit of pixels.
    """
    return decode_image(read_image(source), source.name)


def read_image(source: ImageSource) -> bytes:
    """Return the encoded image.

    Raises:
        ImageError: the image is missing or cannot be read.
    """
    try:
        return source.read()
    except FileNotFoundError as error:
        raise ImageError("missing image", source.name, "there is no such file") from error
    except OSError as error:
        raise ImageError("unreadable image", source.name, error.strerror or str(error)) from error
    except Exception as error:  # the image source of a user's own reader can raise anything
        raise ImageError("unreadable image", source.name, f"{type(error).__name__}: {error}") from error


def decode_image(content: bytes, name: str) -> Image.Image:
    """Decode an image in memory: RGB, turned upright by its EXIF tag, transparent parts on white.

    Args:
        content: the encoded image.
        name: name of the image in an error.

    Raises:
        ImageError: the content is empty, not an image, cut short, damaged, or above Pillow's limit of pixels.
    """
    if not content:
        raise ImageError("unreadable image", name, "it is empty")
    try:
        return _to_rgb(_decode(content, name), name)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("unreadable image", name, f"none of {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("oversized image", name, str(error)) from error
    except Exception as error:  # on damaged files decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ImageError("truncated image", name, str(error) or type(error).__name__) from error


def is_grey(image: Image.Image) -> bool:
    """Return whether an RGB image has no colour: its channels are nearly equal everywhere, as in a grey photograph."""
    small = image.reduce(max(1, min(image.size) // 32))  # single odd pixels are averaged away
    channels = np.asarray(small, dtype=np.int16)  # [H W 3]
    return int((channels.max(axis=2) - channels.min(axis=2)).max()) <= GREY_TOLERANCE


def _decode(content: bytes, name: str) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS  # Pillow itself only warns above it, and raises an error above twice the limit
    if limit is not None and image.width * image.height > limit:
        raise ImageError("oversized image", name, f"{image.width} x {image.height} pixels, over the limit of {limit}")
    image.load()
    return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    image = _upright(image)
    if image.mode == "F":
        raise ImageError("unreadable image", name, "its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # up to 32 bits per pixel, which convert() would clip at 255
        values = np.asarray(image).astype(np.int64)
        least, largest = int(values.min()), int(values.max())
        if least < 0 or largest > 65_535:
            detail = f"its pixels are numbers from {least} to {largest}; save it with 8 or 16 bits"
            raise ImageError("unreadable image", name, detail)
        eight_bits = image.mode == "I" and largest <= 255
        image = Image.fromarray((values if eight_bits else values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image upright by its EXIF orientation; if that cannot be read, the image stays as it is stored.

    Pillow's `exif_transpose` also writes the EXIF anew, which fails if any other part of it is damaged.
    """
    try:
        turned = _TURNED.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # on damaged EXIF Pillow raises SyntaxError, struct.error, ...
        turned = None
    return image if turned is None else image.transpose(turned)
