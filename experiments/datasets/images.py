"""Reads one image. Raises DataError where Pillow would silently return wrong pixels."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.datasets.archives import DataError

# The formats that are tried, whatever the file's suffix. EPS, for one, would run another program.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # a quarter of a GiB in colour; above it Pillow only warns
# Pillow's names of pixel types.
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
GRAY = ("1", "L", "LA", "La", *SIXTEEN_BITS)
COLOUR = ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def is_colour(path: Path) -> bool:
    """Returns whether the file's pixel type can hold colours. It reads only the header."""
    with _opened(path, str(path)) as image:
        return _mode(image) in COLOUR


def read(
    source: Path | IO[bytes], name: str, *, colour: bool, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Returns the image's pixels, uint8, (height, width, 3), or (height, width, 1) if not `colour`.

    The image is rotated by its EXIF orientation. Palettes, CMYK and one-bit images are converted.
    16-bit gray is scaled by its range, 0 to 65535, and rounded. Pillow takes the upper 8 bits of
    16-bit colours. A JPEG with a preview gives its main picture.

    Args:
      source: a file in one of FORMATS.
      name: the image's name in errors.
      size: (height, width) to scale it to, bilinearly.

    Raises:
      DataError: the image is damaged, truncated, animated or transparent anywhere, has more than
        MAX_PIXELS, or has pixels of unknown range (32 bits, floats).
    """
    with _opened(source, name) as image:
        image.load()
        mode = _mode(image)
        upright = ImageOps.exif_transpose(image)
        to_eight_bits = _scaled if mode in SIXTEEN_BITS else _opaque
        picture = to_eight_bits(upright, name).convert("RGB" if colour else "L")
        if size is not None:
            picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
    return pixels if colour else pixels[..., None]


@contextlib.contextmanager
def _opened(source: Path | IO[bytes], name: str) -> Iterator[Image.Image]:
    """Yields Pillow's image. Only its header is read and checked."""
    try:
        # Given a path, Pillow maps a TIFF into memory, and scrambles it if it must be rotated.
        opened = source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source)
        with opened as file, Image.open(file, formats=FORMATS) as image:
            _check_header(image, name)
            yield image
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # Pillow checks far larger images first
        raise DataError(f"{name} is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name} is not a readable image (it begins like no {', '.join(FORMATS)});"
            " mend or replace it"
        ) from error
    except Exception as error:  # damage can make Pillow raise anything
        raise DataError(f"{name} is not a readable image ({error}); mend or replace it") from error


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError(
            f"{name} is too large or empty: expected 1 to {MAX_PIXELS:,} pixels,"
            f" got {width}x{height}"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a JPEG with previews
        raise DataError(f"{name} has {frames} frames; expected one picture")
    mode = _mode(image)
    if mode not in GRAY + COLOUR:
        raise DataError(
            f"{name} has pixels of kind {mode}, whose range is unknown; expected 8 bits a channel,"
            " or 16 bits of gray. Convert it."
        )


def _mode(image: Image.Image) -> str:
    """Returns Pillow's name of the pixel type. "I;16" means a range of 0 to 65535."""
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return "I;16"  # Pillow reads it as 32 bits
    if image.mode in SIXTEEN_BITS and image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
        if white_is_zero or bits != 16:
            return f"{bits}-bit TIFF{' (white is zero)' * white_is_zero}"
    return image.mode


def _scaled(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    if "transparency" in image.info and np.any(values == image.info["transparency"]):
        raise DataError(_transparent(name))
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _opaque(image: Image.Image, name: str) -> Image.Image:
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        raise DataError(_transparent(name))
    return image


def _transparent(name: str) -> str:
    return f"{name} is transparent in places; expected an opaque image. Put it on a background."
