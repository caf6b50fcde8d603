"""Picture opener for datasets and models: upright, in mode L or RGB, transparent parts white.

`open_image` returns pictures as every reader sees them. `Opened` also keeps a picture's bytes and
its orientation, for conversion. Neither knows a model or a dataset.
"""

import contextlib
import importlib
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

MAX_PIXELS = 100_000_000
ORIENTATION = 0x0112
NEW_SUBFILE_TYPE = 254  # of a TIFF: bit 0 a smaller copy, bit 2 a mask
# Optional packages that add formats to Pillow.
with contextlib.suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()
with contextlib.suppress(ImportError):
    importlib.import_module("pillow_jxl")
_PNG = b"\x89PNG\r\n\x1a\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class PictureError(ValueError):
    """A picture that cannot be opened, with the reason and the detail of its reject."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class Span(NamedTuple):
    """Position of bytes in a file: its path, the offset of the first and their count."""

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
    """Width and height of an upright picture in pixels, and the number of its frames."""

    width: int
    height: int
    frames: int


class Opened:
    """Decoded picture: upright in `image`, as stored in `raw`, with its bytes if it was bytes.

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
        self.image = turn_upright(self.raw, self.orientation)


def open_image(source: Source) -> Image.Image:
    """Open a picture as every reader sees it: upright, mode L or RGB, transparent parts white.

    Of a file with several frames (a phone's MPO, a GIF, an animated WebP or PNG) it is the first.
    16-bit grey and floats become 8 bits as in `plain`.

    Args:
        source: a path, the bytes of a file, `{path, bytes}`, or a PIL picture.

    Raises:
        PictureError: it is missing, broken or too large, or has several pages.
    """
    return plain(Opened(source).image)


def read_header(source: Source) -> Header:
    """Read the size and the number of frames of a picture, without decoding a JPEG.

    Raises:
        PictureError: it is missing, broken or too large, or has several pages.
    """
    with _opening(source) as image:
        frames = 1 if image is source else _frames(image, None)
        # Orientations 5 to 8 swap width and height.
        swapped = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return Header(*(image.size[::-1] if swapped else image.size), frames)


def check_picture(data: bytes) -> Header:
    """Check that a picture's bytes decode; several times as fast as `Opened` for JPEG and PNG.

    A JPEG is decoded at an eighth of its size, which reads all of it. Of a plain PNG the checksums
    are compared: where all of them hold, it is byte for byte what its encoder wrote. Whatever is
    not seen to be right in this way is decoded as in `Opened`.

    Raises:
        PictureError: as `Opened`.
    """
    if header := _check_png(data):
        return header
    with contextlib.suppress(PictureError), _opening(data) as image:
        if image.format == "JPEG":
            swapped = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            size = image.size[::-1] if swapped else image.size
            image.draft("L", (1, 1))
            image.load()
            return Header(*size, 1)
    opened = Opened(data)
    return Header(*opened.image.size, opened.frames)


def _check_png(data: bytes) -> Header | None:
    """Size of a PNG of 8-bit samples that holds nothing but its pixels, with right checksums."""
    kinds, start = [], len(_PNG)
    try:
        width, height, *layout = struct.unpack_from(">II5B", data, start + 8)
        while start < len(data):
            (length,) = struct.unpack_from(">I", data, start)
            end = start + 8 + length
            if struct.unpack_from(">I", data, end) != (zlib.crc32(data[start + 4 : end]),):
                return None
            kinds.append(data[start + 4 : start + 8])
            start = end + 4
    except struct.error:
        return None
    # Samples of 8 bits in grey or RGB, both with or without alpha, not interlaced.
    plain = layout[0] == 8 and layout[1] in (0, 2, 4, 6) and not any(layout[2:])
    whole = data.startswith(_PNG) and kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    if plain and whole and set(kinds[1:-1]) == {b"IDAT"} and 0 < width * height <= MAX_PIXELS:
        return Header(width, height, 1)
    return None


def count_pages(source: Source) -> int:
    """Count the pages of a TIFF; 1 for every other picture, or a file that cannot be opened."""
    try:
        with _opening(source) as image:
            return len(_pages(image))
    except PictureError:
        return 1


def bitmap(data: bytes | Span, width: int, height: int, bits: int = 8) -> Image.Image:
    """Make a grey picture, ink black, of rows of 8 or 1 bits a pixel; for `Picture.load`."""
    data = data.read() if isinstance(data, Span) else data
    image = read_bitmap(data, width, height, bits)
    return image if bits == 8 else ink_to_black([image])[0]


def read_bitmap(data: bytes, width: int, height: int, bits: int) -> Image.Image:
    """Make a grey picture of rows of 8 or 1 bits a pixel; a set bit is white."""
    mode = "L" if bits == 8 else "1"
    return Image.frombytes(mode, (width, height), data).convert("L")


def ink_to_black(images: list[Image.Image]) -> list[Image.Image]:
    """Invert bilevel pictures that belong together where most of their pixels are black.

    The formats do not state whether a set bit is ink; the rarer value is taken for it.
    """
    white = sum(image.histogram()[255] for image in images)
    if white * 2 >= sum(image.width * image.height for image in images):
        return images
    return [ImageOps.invert(image) for image in images]


def plain(image: Image.Image) -> Image.Image:
    """Convert a picture to mode L or RGB: 16-bit grey and floats to 8 bits, transparency to white.

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
        if is_transparent(image):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert(mode)
    except ValueError as error:
        raise PictureError("unreadable image", f"{describe_error(error)}; save it as RGB") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert a picture of mode I, I;16 or F to mode L, as described at `plain`."""
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
    """Refuse paths that are no regular files: opening a FIFO would wait for ever.

    Raises:
        PictureError: a folder, FIFO, socket or device.
    """
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    with contextlib.suppress(OSError):  # raised again by whoever opens the file
        # os.stat takes a quarter of the time of pathlib's, and every picture is checked.
        kind = stat.S_IFMT(os.stat(path).st_mode)  # noqa: PTH116
        if kind != stat.S_IFREG:
            raise PictureError("unreadable image", f"{path} is a {kinds.get(kind, 'device')}")


def read_file(path: str) -> bytes:
    """Read a picture file's bytes, for `Picture.load`."""
    check_regular(path)
    return Path(path).read_bytes()


@contextmanager
def _opening(source: Source) -> Generator[Image.Image]:
    """Open a picture without decoding it; every error becomes a PictureError."""
    file: object = source
    if isinstance(source, dict):
        data = source.get("bytes")
        file = source.get("path") if data is None else data
    if not isinstance(file, str | os.PathLike | bytes | Image.Image):
        raise PictureError("missing image", f"{file!r} is no path, no bytes and no picture"[:200])
    name = f"{file}: " if isinstance(file, str | os.PathLike) else ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(file, Image.Image):
                yield file
                return
            if not isinstance(file, bytes):
                check_regular(file)
            with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
                _check_size(image)
                yield image
    except PictureError as error:
        raise PictureError(error.reason, f"{name}{error.detail}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise PictureError("missing image", f"{name}no such file") from None
    except Image.DecompressionBombError as error:
        raise PictureError("image too large", f"{name}{describe_error(error)}") from None
    except UnidentifiedImageError:
        data = file if isinstance(file, bytes) else Span(str(file), 0, 64).read()
        reason, detail = _missing_decoder(data)
        raise PictureError(reason, f"{name}{detail}") from None
    except Exception as error:  # decoders raise errors of any type for broken files
        raise PictureError("unreadable image", f"{name}{describe_error(error)}") from None


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError("image too large", f"{width}x{height} pixels")


def _frames(image: Image.Image, page: int | None) -> int:
    """Seek a page of a TIFF, from 1; returns the number of frames where they are no pages."""
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
    """Frames of a TIFF that are pages, not thumbnails or masks; the first where none is."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.n_frames == 1:
        return [0]
    pages = []
    for frame in range(image.n_frames):
        image.seek(frame)
        if not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 0b101:
            pages.append(frame)
    image.seek(0)
    return pages or [0]


def _missing_decoder(data: bytes) -> tuple[str, str]:
    """Reason and way out for a file that Pillow cannot identify, by its first 64 bytes."""
    if data.startswith(LFS_POINTER):
        return "git-lfs pointer", "run `git lfs pull` in the pictures' repository"
    kind = data[8:12] if data[4:8] == b"ftyp" else b""
    if kind in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "unreadable image", "HEIC: convert it to JPEG, or install pillow-heif"
    if kind in (b"avif", b"avis"):
        detail = "AVIF: this Pillow is built without it; install Pillow 11.3 or later"
        return "unreadable image", detail
    if data.startswith((b"\0\0\0\x0cJXL ", b"\xff\x0a")):
        return "unreadable image", "JPEG XL: convert it to PNG, or install pillow-jxl-plugin"
    if data[4:8] == b"jP  ":
        return "unreadable image", "JPEG 2000: this Pillow is built without OpenJPEG"
    return "unreadable image", "no known picture format"


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation to a picture."""
    if orientation == 1:
        return image
    image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def is_transparent(image: Image.Image) -> bool:
    """Whether a picture has transparent parts."""
    if "A" in image.mode:
        low, _ = cast(tuple[float, float], image.getchannel("A").getextrema())
        return low < 255
    return "transparency" in image.info


def describe_error(error: Exception) -> str:
    """Describe a decoder's error, the same in every run."""
    # Addresses of objects would make two runs differ.
    return re.sub(r"0x[0-9a-fA-F]+", "0x", f"{type(error).__name__}: {error}")


def fit_height(image: Image.Image, height: int) -> Image.Image:
    """Scale a picture to `height` pixels, its proportions kept (at least one pixel wide)."""
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.BICUBIC)
