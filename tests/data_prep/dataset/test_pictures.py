"""The one opener of pictures: every mode, every way of giving a picture, pages and frames."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image

from data_prep.convert import convert
from data_prep.dataset.pictures import (
    Header,
    Opened,
    PictureError,
    check_picture,
    count_pages,
    open_image,
    read_header,
)

INK = (10, 5, 20, 15)


def grey(paper=255, ink=0):
    """Ink on paper, 60 x 20 pixels."""
    image = Image.new("L", (60, 20), paper)
    image.paste(ink, INK)
    return image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)
    return buffer.getvalue()


def paper_and_ink(source):
    image = open_image(source)
    assert image.mode in ("L", "RGB")
    image = image.convert("L")
    return image.getpixel((0, 0)), image.getpixel((12, 8))


def clear(mode):
    """Black ink that covers, on paper that is black and transparent."""
    image = Image.new(mode, (60, 20), (0,) * len(mode))
    image.paste((0,) * (len(mode) - 1) + (255,), INK)
    return image


def palette():
    image = Image.new("P", (60, 20), 0)
    image.putpalette([0, 0, 0, 5, 5, 5])
    image.paste(1, INK)
    return image


def deep(kind, factor):
    return Image.fromarray((np.asarray(grey(), np.float64) * factor).astype(kind))


def big_endian_tiff(factor):
    """16-bit grey with the high byte first, which Pillow reads but does not write."""
    data = (np.asarray(grey(), np.uint16) * factor).astype(">u2").tobytes()
    tags = [(256, 60), (257, 20), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 20)]
    entries = [struct.pack(">HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))]]
    head = b"MM\0*" + struct.pack(">I", 8 + len(data)) + data
    return head + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize(
    "source",
    [
        encoded(clear("RGBA")),
        encoded(clear("LA")),
        clear("RGBA").convert("RGBa"),
        clear("LA").convert("La"),
        encoded(palette(), transparency=0),
        encoded(palette(), transparency=bytes([0, 255])),
        encoded(palette(), "GIF", transparency=0),
        encoded(grey(7), transparency=7),
        encoded(grey(7).convert("RGB"), transparency=(7, 7, 7)),
        encoded(grey(0).convert("1"), transparency=0),
        encoded(deep("u2", 257), transparency=65535),
        encoded(clear("RGBA"), "WEBP", lossless=True),
    ],
    ids=lambda source: None,
)
def test_transparent_pixels_become_white(source):
    paper, ink = paper_and_ink(source)
    assert paper == 255 and (ink < 10 or ink == 255)


@pytest.mark.parametrize(
    "source",
    [
        encoded(deep("u2", 257)),
        encoded(deep("u2", 16)),
        encoded(deep("u2", 4)),
        encoded(deep("u2", 1)),
        encoded(deep("u2", 257), "TIFF"),
        big_endian_tiff(257),
        big_endian_tiff(16),
        encoded(deep("i4", 1000), "TIFF"),
        encoded(deep("f4", 1 / 255), "TIFF"),
        encoded(deep("f4", 1), "TIFF"),
        encoded(deep("f4", 257), "TIFF"),
        encoded(Image.fromarray((np.asarray(grey()) / 127 - 1).astype("f4")), "TIFF"),
    ],
    ids=lambda source: None,
)
def test_16_bit_and_float_pictures_are_scaled_without_clipping(source):
    assert paper_and_ink(source) == (255, 0)


def test_16_bit_picture_of_full_range_keeps_its_contrast():
    values = np.full((20, 60), 40000, np.uint16)
    values[8, 12] = 20000
    assert paper_and_ink(encoded(Image.fromarray(values))) == (40000 // 257, 20000 // 257)


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_16_bit_blank_pages_stay_white_or_black(kind):
    blank = Image.fromarray(np.full((20, 60), 9).astype(kind))
    assert paper_and_ink(encoded(blank, "TIFF")) == (255, 255)
    assert paper_and_ink(encoded(Image.fromarray(np.zeros((20, 60), kind)), "TIFF")) == (0, 0)


def test_nan_and_infinity_in_float_pictures_are_ignored():
    values = np.asarray(grey(), np.float32) / 255
    values = np.where(np.arange(60) == 0, np.nan, values).astype(np.float32)
    assert open_image(Image.fromarray(values)).getpixel((1, 0)) == 255


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "1", "RGB", "RGBX"])
def test_every_colour_mode_is_read(mode):
    base = grey() if mode == "1" else grey().convert("RGB")
    assert paper_and_ink(base.convert(mode)) == (255, 0)


def test_path_picture_and_bytes_are_opened_alike_and_upright(tmp_path):
    image = grey().convert("RGB")
    exif = image.getexif()
    exif[0x0112] = 6
    data = encoded(image, "JPEG", exif=exif, quality=95)
    path = tmp_path / "turned.jpg"
    path.write_bytes(data)
    ways = [path, str(path), data, {"path": "moved.jpg", "bytes": data}]
    ways += [{"path": str(path), "bytes": None}, {"bytes": data}, Image.open(path)]
    opened = [open_image(way) for way in ways]
    assert {loaded.size for loaded in opened} == {(20, 60)}
    assert len({loaded.tobytes() for loaded in opened}) == 1
    assert {read_header(way) for way in ways} == {(20, 60, 1)}
    # Opened twice, it is not turned twice.
    assert open_image(opened[0]) is opened[0]


def test_a_page_of_a_tiff_is_asked_for_and_thumbnails_are_no_pages(tmp_path):
    second = Image.new("L", (30, 30), 255)
    path = tmp_path / "two.tif"
    grey().save(path, save_all=True, append_images=[second])
    assert count_pages(path) == 2
    assert [Opened(path, page).image.size for page in (1, 2)] == [(60, 20), (30, 30)]
    for reader in (open_image, read_header):
        with pytest.raises(PictureError, match=r"several pages: .*two.tif: 2 pages; give each"):
            reader(path)
    with pytest.raises(PictureError, match="page 3 of 2"):
        Opened(path, 3)
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    smaller = ImageFileDirectory_v2()
    smaller[254] = 1
    second.encoderinfo = {"tiffinfo": smaller}
    grey().save(path, save_all=True, append_images=[second])
    assert count_pages(path) == 1 and open_image(path).size == (60, 20)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "MPO"])
def test_first_frame_of_an_animation_is_read_and_counted(kind, tmp_path, capsys):
    data = encoded(
        grey().convert("RGB"), kind, save_all=True, append_images=[Image.new("RGB", (60, 20))]
    )
    assert paper_and_ink(data)[0] >= 250 and read_header(data).frames == 2
    assert count_pages(data) == 1
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.png").write_bytes(encoded(grey()))
    (tmp_path / "t.csv").write_text("image,text\na.jpg,x\nb.png,y\n")
    result = convert("table", tmp_path / "t.csv", tmp_path / "out", progress=False)
    assert result["first_frames"] == 1 and result["found"] == sum(result["rows"].values()) == 2


def test_a_row_of_a_tiff_with_several_pages_is_a_reject(tmp_path):
    grey().save(tmp_path / "two.tif", save_all=True, append_images=[grey()])
    grey().save(tmp_path / "one.tif")
    (tmp_path / "t.csv").write_text("image,text\ntwo.tif,x\none.tif,y\n")
    result = convert("table", tmp_path / "t.csv", tmp_path / "out", progress=False)
    assert result["rejects"] == {"several pages": 1} and "first_frames" not in result


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("gone.png", "missing image: gone.png: no such file"),
        (b"no picture", "unreadable image: no known picture format"),
        ({"path": None, "bytes": None}, "missing image: None is no path"),
        (3, "missing image: 3 is no path"),
        (encoded(grey())[:60], "unreadable image"),
    ],
)
def test_unreadable_picture_raises_one_sentence(source, reason):
    for reader in (open_image, read_header):
        with pytest.raises(PictureError) as raised:
            reader(source)
        assert str(raised.value).startswith(reason)


def damaged(data, rng):
    """The bytes of a picture with some cut off, changed, left out or added."""
    data = bytearray(data)
    start = rng.randrange(len(data))
    change = rng.randrange(5)
    if change == 0:
        del data[start:]
    elif change == 1:
        data[start] = rng.randrange(256)
    elif change == 2:
        del data[start : start + rng.randrange(1, 100)]
    elif change == 3:
        data[start : start + 50] = bytes(len(data[start : start + 50]))
    else:
        data += b"trailing" * rng.randrange(3)
    return bytes(data)


def outcome(check, data):
    try:
        return check(data)
    except PictureError as error:
        return error.reason, error.detail


def decoded(data):
    opened = Opened(data)
    return Header(*opened.image.size, opened.frames)


def test_checking_a_picture_finds_what_decoding_finds():
    rng = random.Random(7)
    noise = np.random.default_rng(7).integers(0, 256, (30, 50, 3), np.uint8)
    colour, turned = Image.fromarray(noise), Image.Exif()
    turned[0x0112] = 6
    again = {"save_all": True, "append_images": [colour.rotate(90)]}
    files = [
        *(encoded(colour.convert(mode)) for mode in ("L", "LA", "P", "1", "RGB", "RGBA")),
        *(encoded(colour, kind, exif=turned) for kind in ("PNG", "JPEG")),
        *(encoded(colour, kind, **again) for kind in ("PNG", "MPO", "GIF")),
        *(encoded(colour.convert(mode), "JPEG") for mode in ("L", "CMYK")),
        encoded(colour, "JPEG", progressive=True),
        encoded(colour, "JPEG", subsampling=0, restart_marker_blocks=2),
        encoded(colour, "WEBP"),
    ]
    outcomes = []
    for data in [*files, *(damaged(rng.choice(files), rng) for _ in range(1000))]:
        outcomes.append(outcome(check_picture, data))
        assert outcomes[-1] == outcome(decoded, data)
    assert all(isinstance(result, Header) for result in outcomes[: len(files)])
    assert 300 < sum(isinstance(result, Header) for result in outcomes) < 900
