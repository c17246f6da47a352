"""One image file: the right pixels, whatever its kind, or an error that names it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.datasets import DataError, images

RAMP = np.add.outer(np.arange(12) * 16, np.arange(10) * 5).astype(np.uint8)  # 12x10, gray
COLOURS = np.stack([RAMP, 255 - RAMP, np.full_like(RAMP, 7)], axis=-1)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def read(path, *, colour=None, size=None):
    colour = images.is_colour(path) if colour is None else colour
    return images.read(path, str(path), colour=colour, size=size)


def opaque(mode, alpha=255):
    image = Image.fromarray(RAMP).convert(mode)
    image.putalpha(alpha)
    return image


SIXTEEN = RAMP.astype(np.uint16) * 257
GRAY = {
    "gray.png": Image.fromarray(RAMP),
    "gray.bmp": Image.fromarray(RAMP),
    "opaque.png": opaque("L"),
    "16.png": Image.fromarray(SIXTEEN),
    "16.pgm": Image.fromarray(SIXTEEN),
    "16.tif": Image.fromarray(SIXTEEN),
}


@pytest.mark.parametrize("name", GRAY)
def test_gray_of_any_kind_is_read_alike(tmp_path, name):
    path = saved(tmp_path / name, GRAY[name])
    assert not images.is_colour(path)
    np.testing.assert_array_equal(read(path)[..., 0], RAMP)
    np.testing.assert_array_equal(read(path, colour=True), np.stack([RAMP] * 3, axis=-1))


COLOURED = {
    "rgb.png": Image.fromarray(COLOURS),
    "rgb.webp": Image.fromarray(COLOURS),
    "opaque.png": Image.fromarray(np.dstack([COLOURS, np.full_like(RAMP, 255)])),
    "cmyk.tif": Image.fromarray(np.dstack([255 - COLOURS, np.zeros_like(RAMP)]), "CMYK"),
    "palette.png": Image.fromarray(COLOURS).quantize(256),
    "palette.gif": Image.fromarray(COLOURS).quantize(256),
}


@pytest.mark.parametrize("name", COLOURED)
def test_colour_of_any_kind_is_read_alike(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path / name, COLOURED[name], **options)
    assert images.is_colour(path)
    np.testing.assert_array_equal(read(path), COLOURS)


def test_a_cmyk_jpeg_is_not_read_as_a_negative(tmp_path):
    path = saved(tmp_path / "x.jpg", COLOURED["cmyk.tif"], quality=95)
    assert np.abs(read(path).astype(int) - COLOURS).mean() < 8


def test_one_bit_is_black_and_white(tmp_path):
    bits = RAMP > 100
    for suffix in ("png", "pbm", "tif"):
        path = saved(tmp_path / f"x.{suffix}", Image.fromarray(bits))
        np.testing.assert_array_equal(read(path)[..., 0], bits * np.uint8(255))


def test_sixteen_bits_are_scaled_by_their_range_and_rounded(tmp_path):
    values = np.array([[0, 128, 129, 385, 386, 32767, 65407, 65535]], np.uint16)
    for suffix in ("png", "pgm", "tif"):
        pixels = read(saved(tmp_path / f"x.{suffix}", Image.fromarray(values)))
        assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 2, 127, 255, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_an_image_is_turned_upright_as_its_exif_says(tmp_path, suffix):
    sideways = np.zeros((16, 32), np.uint8)
    sideways[:, :16] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(sideways), exif=exif)
    upright = read(path)[..., 0]
    assert upright.shape == (32, 16)
    assert upright[:14].min() > 200 and upright[18:].max() < 50


def test_scaling_comes_last_and_takes_height_before_width(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(SIXTEEN))
    expected = Image.fromarray(RAMP).resize((4, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read(path, size=(6, 4))[..., 0], np.asarray(expected))


def test_of_a_jpeg_with_a_preview_the_main_picture_is_read(tmp_path):
    picture, preview = Image.fromarray(RAMP), Image.new("L", (4, 4))
    path = saved(tmp_path / "x.mpo", picture, save_all=True, append_images=[preview])
    assert read(path, colour=False).shape == (12, 10, 1)


def holes(mode):
    image = opaque(mode)
    image.putpixel((0, 0), (*image.getpixel((0, 0))[:-1], 254))
    return image


@pytest.mark.parametrize(
    ("name", "image", "options"),
    [
        ("x.png", holes("RGB"), {}),
        ("x.png", holes("L"), {}),
        ("x.png", Image.fromarray(RAMP), {"transparency": int(RAMP[0, 0])}),
        ("x.png", Image.fromarray(COLOURS), {"transparency": tuple(COLOURS[0, 0].tolist())}),
        ("x.png", Image.fromarray(COLOURS).quantize(256), {"transparency": 3}),
        ("x.gif", Image.fromarray(COLOURS).quantize(256), {"transparency": 3}),
    ],
)
def test_transparency_is_an_error_since_no_background_is_known(tmp_path, name, image, options):
    path = saved(tmp_path / name, image, **options)
    with pytest.raises(DataError, match=rf"{name} is transparent in places.*background"):
        read(path)


def test_a_colour_declared_transparent_that_no_pixel_has_does_no_harm(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(RAMP), transparency=254)
    np.testing.assert_array_equal(read(path)[..., 0], RAMP)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_several_frames_are_an_error(tmp_path, suffix):
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 99, 200)]
    path = saved(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"x\.{suffix} has 3 frames; expected one picture"):
        images.is_colour(path)


@pytest.mark.parametrize(("dtype", "kind"), [(np.int32, "I"), (np.float32, "F")])
def test_pixels_without_a_known_range_are_an_error(tmp_path, dtype, kind):
    path = saved(tmp_path / "x.tif", Image.fromarray(RAMP.astype(dtype)))
    with pytest.raises(DataError, match=rf"x\.tif has pixels of kind {kind}, whose range is"):
        images.is_colour(path)


@pytest.mark.parametrize(
    ("tag", "value", "kind"), [(258, 12, "12-bit TIFF"), (262, 0, "white is zero")]
)
def test_sixteen_bits_that_pillow_gives_unscaled_or_inverted_are_an_error(
    tmp_path, tag, value, kind
):
    path = saved(tmp_path / "x.tif", Image.fromarray(np.full((8, 8), 9, np.uint16)))
    data = path.read_bytes()
    where = data.index(struct.pack("<H", tag), 8)
    path.write_bytes(data[: where + 8] + struct.pack("<H", value) + data[where + 10 :])
    with pytest.raises(DataError, match=kind):
        images.is_colour(path)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jp2", "jpg", "pgm", "png", "tif", "webp"])
def test_a_truncated_image_is_an_error_that_names_it(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    path = saved(tmp_path / f"x.{suffix}", Image.fromarray(noise))
    whole = path.read_bytes()
    for share in (0, 0.01, 0.5, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=rf"x\.{suffix} is not a readable image"):
            read(path, colour=False)


def png_of_size(width, height):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 9_000), (100_000, 100_000)])
def test_a_decompression_bomb_is_refused_by_its_header(size):
    with pytest.raises(DataError, match=r"bomb\.png is too large"):
        images.read(io.BytesIO(png_of_size(*size)), "bomb.png", colour=False)


def test_an_image_without_pixels_is_an_error():
    for content in (png_of_size(0, 5), b"P5 3 0 255\n", b""):
        with pytest.raises(DataError, match="x is not a readable image"):
            images.read(io.BytesIO(content), "x", colour=False)


def test_formats_that_run_programs_are_not_tried(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(RAMP).save(path, "EPS")
    with pytest.raises(DataError, match=r"x\.png is not a readable image"):
        read(path)
