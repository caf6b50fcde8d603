"""The one opener of pictures, for datasets and for models; cuts out a row's part and encodes it.

`open_image` gives what every reader sees: upright, in mode L or RGB, transparent parts white. It
knows no model and no dataset. Conversion, which runs in worker processes, opens with `Opened`: a
picture that is shown whole keeps its bytes, unless its format or mode would be read differently
by different programs: only JPEG, PNG and WebP are kept, 16-bit grey becomes 8-bit, and transparent
parts become white. Cuts are PNG, grey where the picture is grey and RGB otherwise. EXIF orientation
is applied before anything is cut or measured; a picture kept whole keeps the tag, which `datasets`
applies as it decodes.
"""

import contextlib
import importlib
import io
import math
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from data_prep.dataset.schema import Picture

MAX_PIXELS = 100_000_000
MAX_COORDINATE = 1e9  # pixels; no picture is a thousandth of it wide
KEPT_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
KEPT_MODES = {"1", "L", "P", "RGB", "CMYK", "YCbCr"}
ORIENTATION = 0x0112
NEW_SUBFILE_TYPE = 254  # of a TIFF: bit 0 a smaller copy, bit 2 a mask
# Packages that teach Pillow further formats, where they are installed.
with contextlib.suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()
with contextlib.suppress(ImportError):
    importlib.import_module("pillow_jxl")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class PictureError(ValueError):
    """A picture that cannot be shown, with the reason and the detail of its reject."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class Span(NamedTuple):
    """Where bytes lie: a file, the first of them and how many."""

    path: str
    start: int
    count: int

    def read(self) -> bytes:
        """The bytes, fewer where the file has become shorter."""
        with Path(self.path).open("rb") as file:
            file.seek(self.start)
            return file.read(self.count)


# A picture: a file's path, its bytes, `{path, bytes}` as parquet holds it, or a PIL picture.
Source = str | os.PathLike | bytes | dict | Image.Image


class Header(NamedTuple):
    """Width and height of a picture in pixels, upright, and the frames that its file holds."""

    width: int
    height: int
    frames: int


class Opened:
    """A decoded picture, upright, with its original bytes where it was given as bytes.

    Args:
        source: a PIL picture is taken as it stands, at the frame that it shows.
        page: of a TIFF, from 1; None refuses a file of several pages.

    Raises:
        PictureError: it is missing, broken or too large, or has several pages.
    """

    def __init__(self, source: Source, page: int | None = None) -> None:
        self.data = source if isinstance(source, bytes) else None
        with _opening(source) as image:
            self.frames = 1 if image is source else _frames(image, page)
            image.load()
            self.orientation = image.getexif().get(ORIENTATION, 1)
        self.raw = image
        self.image = _upright(self.raw, self.orientation)


def open_image(source: Source, page: int | None = None) -> Image.Image:
    """A picture as every reader sees it: upright, in mode L or RGB, transparent parts white.

    Of a file with several frames (a phone's MPO, a GIF, an animated WebP or PNG) it is the first.
    How 16-bit grey and floats become 8 bits, `plain` says.

    Args:
        source: a path, the bytes of a file, `{path, bytes}`, or a PIL picture.
        page: of a TIFF, from 1; None refuses a file of several pages.

    Raises:
        PictureError: it is missing, broken or too large, or has several pages.
    """
    return plain(Opened(source, page).image)


def read_header(source: Source) -> Header:
    """The size and the number of frames of a picture, without decoding a JPEG.

    Raises:
        PictureError: it is missing, broken or too large, or has several pages.
    """
    with _opening(source) as image:
        frames = 1 if image is source else _frames(image, None)
        # Orientations 5 to 8 lie on their side.
        aside = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return Header(*(image.size[::-1] if aside else image.size), frames)


def count_pages(source: Source) -> int:
    """The pages of a TIFF; 1 of every other picture, and of a file that cannot be opened."""
    try:
        with _opening(source) as image:
            return len(_pages(image))
    except PictureError:
        return 1


def open_picture(picture: Picture) -> Opened:
    """Load and decode a picture; PictureError where it is missing, broken or too large."""
    try:
        loaded = picture.load()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureError("missing image", str(error.filename or error)) from None
    except PictureError:
        raise
    except (OSError, ValueError) as error:
        raise PictureError("unreadable image", _describe(error)) from None
    return Opened(loaded)


def encode(picture: Picture, opened: Opened) -> tuple[bytes, str, int, int, tuple | None]:
    """The picture's part as (bytes, extension, width, height, box as cut where it was clipped)."""
    image, clipped = opened.image, None
    stated = tuple(picture.size or image.size)
    if stated not in (image.size, opened.raw.size):
        raise PictureError(
            "size differs from annotation",
            "{}x{}, annotated as {}x{}".format(*image.size, *stated),
        )
    if picture.box:
        # Some annotators ignored the orientation: then the cut is turned, not the picture.
        turn_after = stated != image.size
        image = opened.raw if turn_after else image
        box = _inside(picture.box, image.size)
        clipped = None if box == _outward(picture.box) else box
        image = _upright(_cut(image, picture, box), opened.orientation if turn_after else 1)
    elif (
        opened.data is not None
        and not picture.invert
        and opened.raw.format in KEPT_FORMATS
        and image.mode in KEPT_MODES
        and not _is_transparent(image)
    ):
        return opened.data, KEPT_FORMATS[opened.raw.format], *image.size, None
    image = plain(image)
    if picture.invert:
        image = ImageOps.invert(image)
    return to_png(image), "png", *image.size, clipped


def _cut(image: Image.Image, picture: Picture, box: tuple[int, int, int, int]) -> Image.Image:
    """The part of a picture in a box, its quadrilateral put straight or its polygon cut out."""
    if not (picture.quad or picture.mask):
        return image.crop(box)
    from data_prep.dataset.outlines import is_upright, masked, straighten

    if picture.mask:
        return masked(plain(image), picture.mask, box)
    if is_upright(picture.quad):
        return image.crop(box)
    try:
        return straighten(plain(image), picture.quad)
    except ValueError as error:
        raise PictureError("malformed box", str(error)) from None


def to_png(image: Image.Image) -> bytes:
    """A picture of mode L or RGB as PNG bytes, without any metadata.

    Three to five times faster than Pillow's default. On ink over pure white, rows are not filtered;
    everywhere only runs are looked for, which scans hold and which other matches are no match for.
    """
    width, height = image.size
    pixels = image.tobytes() if image.mode == "L" else b""
    # Every seventh tells enough; all of them would take as long as a fifth of the packing.
    some = pixels[::7]
    if some.count(255) * 2 > len(some):
        lines = (pixels[at : at + width] for at in range(0, len(pixels), width))
        head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
        body = packer.compress(b"\0" + b"\0".join(lines)) + packer.flush()
        chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    buffer = io.BytesIO()
    image.info = {}
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def bitmap(data: bytes | Span, width: int, height: int, bits: int = 8) -> Image.Image:
    """A grey picture, ink black, from rows of 8 or 1 bits a pixel; for `Picture.load`."""
    data = data.read() if isinstance(data, Span) else data
    image = read_bitmap(data, width, height, bits)
    return image if bits == 8 else ink_to_black([image])[0]


def read_bitmap(data: bytes, width: int, height: int, bits: int) -> Image.Image:
    """A grey picture from rows of 8 or 1 bits a pixel, a set bit being white."""
    mode = "L" if bits == 8 else "1"
    return Image.frombytes(mode, (width, height), data).convert("L")


def ink_to_black(images: list[Image.Image]) -> list[Image.Image]:
    """Bilevel pictures that belong together, inverted where most of them is black.

    The formats do not say whether a set bit is ink; the rarer value is taken to be.
    """
    white = sum(image.histogram()[255] for image in images)
    if white * 2 >= sum(image.width * image.height for image in images):
        return images
    return [ImageOps.invert(image) for image in images]


def plain(image: Image.Image) -> Image.Image:
    """The picture in mode L or RGB: 16-bit grey and floats in 8 bits, transparent parts over white.

    White is 65535 in 16-bit grey (also in 32-bit integers) and 255 in floats. A picture that uses
    at least a quarter of that range, as scanners write it, is scaled by the whole range: its 0
    stays black and its contrast what it was. One that would come out black, because its brightest
    value is less than that quarter (12 bits in 16, floats from 0 to 1), and one with values beyond
    the range, is scaled by its own: its lowest value becomes black and its highest white.

    Raises:
        PictureError: Pillow cannot turn its colours into RGB (CIE Lab).
    """
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    try:
        if image.mode in ("La", "RGBa"):  # colours multiplied by their alpha
            image = image.convert(image.mode.upper())
        if _is_transparent(image):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert(mode)
    except ValueError as error:
        raise PictureError("unreadable image", f"{_describe(error)}; save it as RGB") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture of mode I, I;16 or F in mode L, as `plain` says."""
    import numpy as np

    values = np.asarray(image if image.mode == "F" else image.convert("I"))
    finite = values[np.isfinite(values)] if image.mode == "F" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    top = 255 if image.mode == "F" else 65535
    if low >= 0 and (top / 4 <= high <= top or high == 0):
        # Pillow's own conversion clips everything above 255 to white.
        grey = image.convert("F").point(lambda value: value * (255 / top)).convert("L")
    else:
        # All of one value is blank paper, so white.
        scaled = (values.astype(np.float32) - low) / (high - low or 1) + (high == low)
        scaled = np.nan_to_num(scaled, posinf=1, neginf=0).clip(0, 1) * 255
        grey = Image.fromarray(scaled.round().astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.paste(255, mask=Image.fromarray(values == clear))
    return grey


def check_regular(path: str | os.PathLike) -> None:
    """Refuse what is there and is no file: to open a FIFO would wait for ever.

    Raises:
        PictureError: a folder, FIFO, socket or device.
    """
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    with contextlib.suppress(OSError):  # told where it is opened
        kind = stat.S_IFMT(Path(path).stat().st_mode)
        if kind != stat.S_IFREG:
            raise PictureError("unreadable image", f"{path} is a {kinds.get(kind, 'device')}")


def read_file(path: str) -> bytes:
    """A picture file's bytes, for `Picture.load`."""
    check_regular(path)
    return Path(path).read_bytes()


def enclosing_box(points: object) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) around [[x, y], ...] or [x1, y1, x2, y2, ...]; ValueError if none.

    A polygon's enclosing rectangle is what a row shows, so that text is never cut by a slant.
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


def short_number(value: float) -> int | float:
    """A coordinate without a useless ".0"."""
    return int(value) if float(value).is_integer() else value


def _outward(box: Sequence[float]) -> tuple[int, int, int, int]:
    return math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = _outward(box)
    clipped = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        shown = ", ".join(str(short_number(value)) for value in box)
        raise PictureError("box outside picture", f"box {shown} in {size[0]}x{size[1]}")
    return clipped


@contextmanager
def _opening(source: Source) -> Iterator[Image.Image]:
    """A picture that is open but not decoded; whatever is wrong with it is a PictureError."""
    if isinstance(source, dict):
        data = source.get("bytes")
        source = source.get("path") if data is None else data
    if not isinstance(source, Source):
        raise PictureError("missing image", f"{source!r} is no path, no bytes and no picture"[:200])
    name = f"{source}: " if isinstance(source, str | os.PathLike) else ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                yield source
                return
            if name:
                check_regular(source)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                _check_size(image)
                yield image
    except PictureError as error:
        raise PictureError(error.reason, f"{name}{error.detail}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise PictureError("missing image", f"{name}no such file") from None
    except Image.DecompressionBombError as error:
        raise PictureError("image too large", f"{name}{_describe(error)}") from None
    except UnidentifiedImageError:
        reason, detail = _missing_decoder(source)
        raise PictureError(reason, f"{name}{detail}") from None
    except Exception as error:  # a decoder fails on broken files in any way it likes
        raise PictureError("unreadable image", f"{name}{_describe(error)}") from None


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError("image too large", f"{width}x{height} pixels")


def _frames(image: Image.Image, page: int | None) -> int:
    """Turn to a page of a TIFF, from 1; the number of frames where they are no pages."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    pages = _pages(image)
    if page is None and len(pages) > 1:
        raise PictureError("several pages", f"{len(pages)} pages; give each page as a file")
    if not 1 <= (page or 1) <= len(pages):
        raise PictureError("missing image", f"page {page} of {len(pages)}")
    image.seek(pages[(page or 1) - 1])
    _check_size(image)
    return 1


def _pages(image: Image.Image) -> list[int]:
    """The frames of a TIFF that are pages, and neither thumbnails nor masks; else the first."""
    if image.format != "TIFF" or image.n_frames == 1:
        return [0]
    pages = []
    for frame in range(image.n_frames):
        image.seek(frame)
        if not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 0b101:
            pages.append(frame)
    image.seek(0)
    return pages or [0]


def _missing_decoder(source: bytes | str | os.PathLike) -> tuple[str, str]:
    """Why Pillow does not know a file, by its first bytes: (reason, what would read it)."""
    data = source[:64] if isinstance(source, bytes) else Span(str(source), 0, 64).read()
    if data.startswith(LFS_POINTER):
        return "git-lfs pointer", "run `git lfs pull` in the pictures' repository"
    kind = data[8:12] if data[4:8] == b"ftyp" else b""
    if kind in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "unreadable image", "HEIC: convert it to JPEG, or install pillow-heif"
    if kind in (b"avif", b"avis"):
        return (
            "unreadable image",
            "AVIF: this Pillow is built without it; install Pillow 11.3 or later",
        )
    if data.startswith((b"\0\0\0\x0cJXL ", b"\xff\x0a")):
        return "unreadable image", "JPEG XL: convert it to PNG, or install pillow-jxl-plugin"
    if data[4:8] == b"jP  ":
        return "unreadable image", "JPEG 2000: this Pillow is built without OpenJPEG"
    return "unreadable image", "no known picture format"


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return image
    image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _is_transparent(image: Image.Image) -> bool:
    if "A" in image.mode:
        return image.getchannel("A").getextrema()[0] < 255
    return "transparency" in image.info


def _describe(error: Exception) -> str:
    # Addresses of objects would make two runs differ.
    return re.sub(r"0x[0-9a-fA-F]+", "0x", f"{type(error).__name__}: {error}")


def fit_height(image: Image.Image, height: int) -> Image.Image:
    """The picture scaled to `height` pixels, its proportions kept (at least one pixel wide)."""
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.BICUBIC)
