"""Images where they lie, and how they are opened: as upright RGB on white, whatever the file holds."""

import io
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from raydd.errors import DataError
from raydd.plain_files import read_file

MOST_BYTES = 2**29  # of an encoded image; the pixel limit as uncompressed 16-bit colour has as many

# Formats that photographs come in. Others that Pillow knows stay shut: some of them run programs (EPS) or fetch files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# Largest distance of two channels, of 255, in an image that counts as grey: what JPEG leaves of a grey photograph.
GREY_TOLERANCE = 6


class ImageSource(Protocol):
    """One image where it lies: a file, a row of a Parquet file, a member of a tar shard. Light to pickle."""

    @property
    def name(self) -> str:
        """What to call it in a message."""
        ...

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: it is missing or cannot be read.
        """
        ...

    def stamp(self) -> str:
        """What changes whenever the image's bytes may have changed, found without reading them; "" if it is missing.

        It names the file that holds the image (see `file_stamp`) and the place inside that file.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image in a file of its own."""

    name: str
    path: str

    def read(self) -> bytes:
        """The file's content."""
        return read_file(self.path, MOST_BYTES)

    def stamp(self) -> str:
        """The file's stamp, "" if there is no such file."""
        return file_stamp(self.path)


def file_stamp(path: str) -> str:
    """A file's path, size, mtime, ctime and inode, or "" if there is no such file.

    The ctime is there because a program can set the mtime back, but not the ctime.
    """
    try:
        state = os.stat(path)  # noqa: PTH116, a Path costs more than the call
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        return ""
    times = f"{state.st_mtime_ns} {state.st_ctime_ns}"
    return f"{state.st_size} {times} {state.st_ino} {os.path.abspath(path)}"  # noqa: PTH100


class ImageError(DataError):
    """An image cannot be used. `kind` is one of missing, unreadable, truncated and oversized image."""

    def __init__(self, kind: str, name: str, detail: str) -> None:
        super().__init__(f"{name}: {kind} ({detail}). Put the image right, or leave it out with data.bad_pairs skip.")
        self.kind = kind
        self.detail = detail


def open_image(source: ImageSource) -> Image.Image:
    """The image in memory: RGB, turned upright by its EXIF tag, transparent parts on white.

    Raises:
        ImageError: missing, not an image, cut short or damaged, or above Pillow's limit of pixels.
    """
    return decode_image(read_image(source), source.name)


def read_image(source: ImageSource) -> bytes:
    """The encoded image.

    Raises:
        ImageError: it is missing or cannot be read.
    """
    try:
        return source.read()
    except FileNotFoundError as error:
        raise ImageError("missing image", source.name, "there is no such file") from error
    except OSError as error:
        raise ImageError("unreadable image", source.name, error.strerror or str(error)) from error
    except Exception as error:  # a source of a user's own reader can raise anything
        raise ImageError("unreadable image", source.name, f"{type(error).__name__}: {error}") from error


def decode_image(content: bytes, name: str) -> Image.Image:
    """The image in memory: RGB, turned upright by its EXIF tag, transparent parts on white.

    Args:
        content: the encoded image.
        name: what to call it in an error.

    Raises:
        ImageError: empty, not an image, cut short or damaged, or above Pillow's limit of pixels.
    """
    if not content:
        raise ImageError("unreadable image", name, "it is empty")
    try:
        return _to_rgb(_decode(content, name))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("unreadable image", name, f"none of {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("oversized image", name, str(error)) from error
    except Exception as error:  # on damaged files decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ImageError("truncated image", name, str(error) or type(error).__name__) from error


def is_grey(image: Image.Image) -> bool:
    """Whether an RGB image has no colour: its channels agree nearly everywhere, as those of a grey photograph do."""
    small = image.reduce(max(1, min(image.size) // 32))  # single odd pixels are averaged away
    channels = np.asarray(small, dtype=np.int16)  # [H W 3]
    return int((channels.max(axis=2) - channels.min(axis=2)).max()) <= GREY_TOLERANCE


def _decode(content: bytes, name: str) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS  # Pillow only warns above it, and raises above twice as many
    if limit is not None and image.width * image.height > limit:
        raise ImageError("oversized image", name, f"{image.width} x {image.height} pixels, over the limit of {limit}")
    image.load()
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
