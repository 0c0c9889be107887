import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from raydd.data.images import FileImage, ImageError, is_grey, open_image


@dataclass(frozen=True)
class Content:
    content: bytes
    name: str = "picture"

    def read(self) -> bytes:
        return self.content

    def stamp(self) -> str:
        return ""


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> Content:
    content = io.BytesIO()
    image.save(content, format, **options)
    return Content(content.getvalue())


def noise(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def test_a_file_opens_as_it_is(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    source = FileImage("a.png", str(tmp_path / "a.png"))
    assert np.array_equal(np.asarray(open_image(source)), np.asarray(noise()))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_every_mode_becomes_rgb(mode: str, format: str) -> None:
    if mode == "CMYK" and format == "PNG":
        format = "JPEG"
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16))
    else:
        image = Image.new("RGB", (8, 8), (200, 200, 200))
        image = image.quantize(4) if mode == "P" else image.convert(mode)
    opened = open_image(encoded(image, format))
    assert opened.mode == "RGB"
    wanted = {"1": 255, "I;16": 40_000 >> 8}.get(mode, 200)
    assert np.abs(np.asarray(opened).astype(int) - wanted).mean() < (60 if mode == "1" else 3)  # mode 1 is dithered


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    opened = open_image(encoded(clear.convert(mode)) if mode != "P" else encoded(clear.quantize(2)))
    assert opened.getpixel((0, 0)) == (255, 255, 255)


def test_an_exif_tag_turns_the_image_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert open_image(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).size == (10, 20)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = encoded(noise(), format, exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(image.content)))
    assert np.array_equal(np.asarray(open_image(image)), np.asarray(wanted))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_image_with_damaged_exif_opens() -> None:
    as_stored = encoded(Image.new("RGB", (20, 10)), "PNG", exif=b"no EXIF at all")
    assert open_image(as_stored).size == (20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a maker's name"
    image = bytearray(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif).content)
    image[image.index(b"Exif\0\0") + 17] = 0  # the type of the name
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(io.BytesIO(image)))
    assert open_image(Content(bytes(image))).size == (10, 20)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    opened = open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert opened.getpixel((0, 0)) == (255, 0, 0) or opened.getpixel((0, 0)) == (254, 0, 0)


def test_a_missing_file(tmp_path: Path) -> None:
    source = FileImage("a.png", str(tmp_path / "a.png"))
    assert source.stamp() == ""
    with pytest.raises(ImageError, match=r"a.png: missing image .*data.bad_pairs"):
        open_image(source)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="unreadable image"):
        open_image(FileImage("here", str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_photograph(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"unreadable image \("):
        open_image(Content(content))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cut_file(format: str, share: float) -> None:
    whole = encoded(noise(), format)
    open_image(whole)
    with pytest.raises(ImageError) as caught:
        open_image(Content(whole.content[: int(share * len(whole.content))]))
    assert caught.value.kind in {"truncated image", "unreadable image"}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "PPM"])
def test_half_a_file_is_called_truncated(format: str) -> None:
    whole = encoded(noise(), format).content
    with pytest.raises(ImageError, match="truncated image"):
        open_image(Content(whole[: len(whole) // 2]))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [64 * 64 - 1, 64])  # Pillow warns of the first and raises at the second
def test_more_pixels_than_the_limit(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match="oversized image"):
        open_image(encoded(noise()))


def test_grey_is_seen_through_the_noise_of_jpeg() -> None:
    grey = noise().convert("L")
    assert is_grey(open_image(encoded(grey, "JPEG")))
    assert is_grey(open_image(encoded(grey.convert("RGB"), "JPEG", quality=75)))
    assert is_grey(Image.new("RGB", (1, 1), "white"))
    assert not is_grey(noise())
    assert not is_grey(Image.new("RGB", (300, 200), (200, 180, 160)))


def test_a_small_coloured_part_is_colour() -> None:
    image = Image.new("RGB", (320, 320), "white")
    image.paste((255, 0, 0), (100, 100, 120, 120))
    assert not is_grey(image)


def test_a_stamp_changes_with_the_file_even_if_the_mtime_is_set_back(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    noise().save(path)
    source, state = FileImage("a.bmp", str(path)), path.stat()
    before = source.stamp()
    assert FileImage("another name", str(path)).stamp() == before
    ImageOps.invert(noise()).save(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert source.stamp() != before


def test_floating_point_pixels_are_refused() -> None:
    image = encoded(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF")
    with pytest.raises(ImageError, match="floating-point numbers"):
        open_image(image)


def test_small_numbers_in_32_bits_are_not_black() -> None:
    image = Image.fromarray(np.full((8, 8), 200, np.int32))
    assert np.asarray(open_image(encoded(image, "TIFF"))).mean() == 200


@pytest.mark.parametrize(("least", "largest"), [(0, 65_536), (-1, 255), (-(2**31), 2**31 - 1)])
def test_numbers_beyond_16_bits_are_refused(least: int, largest: int) -> None:
    image = encoded(Image.fromarray(np.array([[least, 0], [7, largest]], np.int32)), "TIFF")
    with pytest.raises(ImageError, match=rf"unreadable image \(its pixels are numbers from {least} to {largest}; save"):
        open_image(image)


def test_numbers_of_16_bits_in_32_bits_keep_their_greys() -> None:
    image = encoded(Image.fromarray(np.array([[0, 256], [32_768, 65_535]], np.int32)), "TIFF")
    assert np.asarray(open_image(image))[..., 0].tolist() == [[0, 1], [128, 255]]
