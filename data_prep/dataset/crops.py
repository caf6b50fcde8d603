"""Crops: cuts a row's box, quadrilateral or polygon out of a picture, and encodes it.

A picture that is shown whole keeps its bytes, unless programs would decode its format or mode
differently: only JPEG, PNG and WebP are kept, 16-bit grey becomes 8-bit, and transparent parts
become white. Crops are PNG, grey where the picture is grey and RGB otherwise. EXIF orientation is
applied before anything is cut or measured; a picture kept whole keeps the tag, which `datasets`
applies as it decodes.
"""

import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageOps

from data_prep.dataset.pictures import (
    Opened,
    PictureError,
    describe_error,
    is_transparent,
    plain,
    turn_upright,
)
from data_prep.dataset.schema import Picture

if TYPE_CHECKING:
    import numpy as np

Point = tuple[float, float]
Box = tuple[int, int, int, int]  # left, top, right, bottom
UPRIGHT = 0.02  # the slope, as a share of an edge's length, that is left as it is
MAX_COORDINATE = 1e9  # pixels; no picture is a thousandth of it wide
KEPT_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
KEPT_MODES = {"1", "L", "P", "RGB", "CMYK", "YCbCr"}


def open_picture(picture: Picture) -> Opened:
    """Load and decode a picture; PictureError where it is missing, broken or too large."""
    try:
        loaded = picture.load()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureError("missing image", str(error.filename or error)) from None
    except PictureError:
        raise
    except (OSError, ValueError) as error:
        raise PictureError("unreadable image", describe_error(error)) from None
    return Opened(loaded)


def encode(picture: Picture, opened: Opened) -> tuple[bytes, str, int, int, Box | None]:
    """Crop and encode a picture as a row shows it.

    Returns:
        The bytes, the file's extension, width and height in pixels, and the box as it was cut
        where it reached out of the picture (otherwise None).

    Raises:
        PictureError: the picture is of another size than annotated, or its box is outside of it.
    """
    image, clipped = opened.image, None
    stated = tuple(picture.size or image.size)
    if stated not in (image.size, opened.raw.size):
        detail = "{}x{}, annotated as {}x{}".format(*image.size, *stated)
        raise PictureError("size differs from annotation", detail)
    if picture.box:
        # Some annotators ignored the orientation: then the crop is turned, not the picture.
        turn_after = stated != image.size
        image = opened.raw if turn_after else image
        box = clip_box(picture.box, image.size)
        clipped = None if box == outward_box(picture.box) else box
        image = turn_upright(_crop(image, picture, box), opened.orientation if turn_after else 1)
    elif (
        opened.data is not None
        and not picture.invert
        and opened.raw.format in KEPT_FORMATS
        and image.mode in KEPT_MODES
        and not is_transparent(image)
    ):
        return opened.data, KEPT_FORMATS[opened.raw.format], *image.size, None
    image = plain(image)
    if picture.invert:
        image = ImageOps.invert(image)
    return to_png(image), "png", *image.size, clipped


def _crop(image: Image.Image, picture: Picture, box: Box) -> Image.Image:
    """Crop a picture to a box; its quadrilateral is straightened, its polygon masked."""
    if picture.mask:
        return masked(plain(image), picture.mask, box)
    if not picture.quad or is_upright(picture.quad):
        return image.crop(box)
    try:
        return straighten(plain(image), picture.quad)
    except ValueError as error:
        raise PictureError("malformed box", str(error)) from None


def to_png(image: Image.Image) -> bytes:
    """Encode a picture of mode L or RGB as PNG, without any metadata.

    Three to five times faster than Pillow's default: only runs are compressed, which scans consist
    of, and rows of grey ink over pure white are not filtered.
    """
    width, height = image.size
    pixels = image.tobytes() if image.mode == "L" else b""
    # Every seventh pixel is enough; counting all would take a fifth of the compression's time.
    sample = pixels[::7]
    if sample.count(255) * 2 > len(sample):
        lines = (pixels[start : start + width] for start in range(0, len(pixels), width))
        head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        compressor = zlib.compressobj(1, strategy=zlib.Z_RLE)
        body = compressor.compress(b"\0" + b"\0".join(lines)) + compressor.flush()
        chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    buffer = io.BytesIO()
    image.info = {}
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


# --- boxes


def enclosing_box(points: object) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) around points [[x, y], ...] or [x1, y1, x2, y2, ...].

    A row shows a polygon's enclosing box, so that text is never cut by a slant.

    Raises:
        ValueError: they are no points, or fewer than two.
    """
    if not isinstance(points, Sequence) or isinstance(points, str) or not points:
        raise ValueError("no list of points")
    if all(isinstance(point, Sequence) and not isinstance(point, str) for point in points):
        if any(len(point) != 2 for point in points):
            raise ValueError("a point is no pair of numbers")
        points = [value for point in points for value in point]
    if len(points) < 4 or len(points) % 2:
        raise ValueError(f"{len(points)} coordinates")
    for value in points:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"coordinate {value!r} is no number")
        if not abs(value) < MAX_COORDINATE:  # also NaN, and integers that no float holds
            raise ValueError(f"coordinate {value} is no finite number")
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def outward_box(box: Sequence[float]) -> Box:
    """Round a box outward to whole pixels."""
    return math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])


def clip_box(box: Sequence[float], size: tuple[int, int]) -> Box:
    """Round a box outward and clip it to a picture's size; PictureError if nothing is left."""
    left, top, right, bottom = outward_box(box)
    clipped = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        shown = ", ".join(str(short_number(value)) for value in box)
        raise PictureError("box outside picture", f"box {shown} in {size[0]}x{size[1]}")
    return clipped


def short_number(value: float) -> int | float:
    """A coordinate without a useless ".0"."""
    return int(value) if float(value).is_integer() else value


# --- quadrilaterals and polygons


def read_points(points: Sequence) -> tuple[Point, ...]:
    """Read points of numbers, [[x, y], ...] or [x1, y1, x2, y2, ...], as pairs."""
    if points and isinstance(points[0], Sequence):
        return tuple((float(x), float(y)) for x, y in points)
    return tuple(zip(map(float, points[::2]), map(float, points[1::2])))


def is_upright(points: Sequence[Point]) -> bool:
    """Whether four corners, clockwise from the top left, are those of an upright rectangle."""
    edges = zip(points, [*points[1:], points[0]])
    steps = [(end[0] - start[0], end[1] - start[1]) for start, end in edges]
    if len(steps) != 4:
        return False
    along = (steps[0], (-steps[2][0], -steps[2][1]))
    down = ((steps[1][1], steps[1][0]), (-steps[3][1], -steps[3][0]))
    return all(length > 0 and abs(slope) <= UPRIGHT * length for length, slope in (*along, *down))


def straighten(image: Image.Image, corners: Sequence[Point]) -> Image.Image:
    """Cut a quadrilateral out of a picture in mode L or RGB, as an upright rectangle.

    The corners begin at the text's top left; counterclockwise ones are reversed, as a picture is
    never mirrored. Pixels outside the picture are white.

    Raises:
        ValueError: the corners are of no quadrilateral in the picture.
    """
    import numpy as np

    if area(corners) < 0:
        corners = [corners[0], *reversed(corners[1:])]
    top_left, top_right, bottom_right, bottom_left = corners
    width = max(math.dist(top_left, top_right), math.dist(bottom_left, bottom_right))
    height = max(math.dist(top_left, bottom_left), math.dist(top_right, bottom_right))
    width, height = max(round(width), 1), max(round(height), 1)
    if area(corners) < 1 or width * height > 4 * image.width * image.height:
        raise ValueError(f"corners {corners} are of no quadrilateral in the picture")
    target = [(0, 0), (width, 0), (width, height), (0, height)]
    try:
        data = perspective(target, corners).tolist()
    except np.linalg.LinAlgError:
        raise ValueError(f"corners {corners} are of no quadrilateral") from None
    white = 255 if image.mode == "L" else (255, 255, 255)
    method = Image.Transform.PERSPECTIVE, data, Image.Resampling.BICUBIC
    return image.transform((width, height), *method, fillcolor=white)


def perspective(old: Sequence[Point], new: Sequence[Point]) -> "np.ndarray":
    """Eight coefficients of the perspective that maps four points to four others (Pillow's order).

    Raises:
        numpy.linalg.LinAlgError: the points are of no quadrilateral.
    """
    import numpy as np

    rows, values = [], []
    for (x, y), (u, v) in zip(old, new):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows, float), np.array(values, float))


def masked(image: Image.Image, points: Sequence[Point], box: Box) -> Image.Image:
    """Crop a picture in mode L or RGB to a box, white outside the polygon of the points."""
    inside = Image.new("1", (box[2] - box[0], box[3] - box[1]))
    moved = [(x - box[0], y - box[1]) for x, y in points]
    ImageDraw.Draw(inside).polygon(moved, fill=1, outline=1)
    white = Image.new(image.mode, inside.size, "white")
    return Image.composite(image.crop(box), white, inside)


def area(points: Sequence[Point]) -> float:
    """A polygon's area, positive where its points go clockwise as pictures show them."""
    pairs = zip(points, [*points[1:], points[0]])
    return sum(x * other_y - other_x * y for (x, y), (other_x, other_y) in pairs) / 2
