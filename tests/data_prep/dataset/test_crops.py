"""Crops of pictures, their boxes and their bytes."""

import io
from functools import partial

import pytest
from PIL import Image

from data_prep.dataset.crops import (
    clip_box,
    enclosing_box,
    encode,
    is_upright,
    masked,
    open_picture,
    read_points,
    short_number,
    straighten,
    to_png,
)
from data_prep.dataset.pictures import Opened, PictureError
from data_prep.dataset.schema import Picture


def load(data):
    return data


def fail(error):
    raise error


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(size=(64, 48)):
    return Image.linear_gradient("L").resize(size)


@pytest.mark.parametrize("points", [[[1, 2], [9, 3], [8, 7]], [1, 2, 9, 3, 8, 7]])
def test_the_enclosing_box_of_points(points):
    assert enclosing_box(points) == (1, 2, 9, 7)
    assert read_points(points) == ((1.0, 2.0), (9.0, 3.0), (8.0, 7.0))


@pytest.mark.parametrize(
    "points",
    [
        *(None, "12", [], [1, 2], [1, 2, 3], [[1, 2, 3], [4, 5, 6]]),
        *([1, 2, True, 4], [1, 2, "3", 4], [1, 2, float("nan"), 4], [1, 2, 10**400, 4]),
    ],
)
def test_points_that_enclose_nothing_are_refused(points):
    with pytest.raises(ValueError):
        enclosing_box(points)


def test_boxes_are_rounded_outward_and_clipped():
    assert clip_box((1.2, -3, 70, 9.1), (64, 48)) == (1, 0, 64, 10)
    with pytest.raises(PictureError, match=r"box 64, 0, 70.5, 9 in 64x48"):
        clip_box((64.0, 0, 70.5, 9), (64, 48))


def test_whole_pictures_keep_their_bytes():
    data = encoded(gradient(), "JPEG")
    assert encode(Picture(partial(load, data)), Opened(data)) == (data, "jpg", 64, 48, None)


@pytest.mark.parametrize("format", ["BMP", "GIF", "TIFF"])
def test_other_formats_become_png(format):
    data = encoded(gradient(), format)
    png, extension, *size, clipped = encode(Picture(partial(load, data)), Opened(data))
    assert extension == "png" and size == [64, 48] and clipped is None
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG" and image.convert("RGB") == gradient().convert("RGB")


def test_a_crop_states_the_box_as_it_was_clipped():
    picture = Picture(partial(load, b""), box=(50, 40, 90, 60))
    *_, width, height, clipped = encode(picture, Opened(gradient()))
    assert (width, height, clipped) == (14, 8, (50, 40, 64, 48))


def test_another_size_than_annotated_is_refused():
    with pytest.raises(PictureError, match="64x48, annotated as 10x10"):
        encode(Picture(partial(load, b""), size=(10, 10)), Opened(gradient()))


@pytest.mark.parametrize(
    "error, reason",
    [
        (FileNotFoundError(2, "no", "a.png"), "missing image"),
        (OSError("disk"), "unreadable image"),
        (PictureError("several pages"), "several pages"),
    ],
)
def test_errors_of_loading_have_a_reason(error, reason):
    with pytest.raises(PictureError) as raised:
        open_picture(Picture(partial(fail, error)))
    assert raised.value.reason == reason


@pytest.mark.parametrize("white", [0, 255])
def test_png_bytes_hold_the_pixels(white):
    image = Image.new("L", (30, 20), white)
    image.paste(100, (3, 4, 9, 8))
    assert Image.open(io.BytesIO(to_png(image.copy()))).tobytes() == image.tobytes()


def test_a_slanted_quadrilateral_is_straightened():
    image = Image.new("L", (100, 100), 255)
    corners = [(20, 40), (60, 20), (70, 40), (30, 60)]
    assert not is_upright(corners) and is_upright([(0, 0), (9, 0), (9, 5), (0, 5)])
    straight = straighten(image, corners)
    assert straight.size == (45, 22)
    assert straighten(image, [corners[0], *reversed(corners[1:])]).size == (45, 22)
    with pytest.raises(ValueError):
        straighten(image, [(0, 0), (1, 1), (2, 2), (3, 3)])


def test_outside_a_polygon_the_crop_is_white():
    crop = masked(Image.new("L", (40, 40), 0), [(10, 10), (30, 10), (10, 30)], (10, 10, 30, 30))
    assert crop.size == (20, 20)
    assert crop.getpixel((1, 1)) == 0 and crop.getpixel((19, 19)) == 255


def test_whole_coordinates_are_ints():
    assert [short_number(value) for value in (3.0, 3.5, 4)] == [3, 3.5, 4]
