"""Lines of pages: find them with RapidOCR's detector, in reading order, and read each by itself."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypedDict

from data_prep.dataset.crops import Point, straighten
from data_prep.dataset.pictures import open_image
from ocrkit.data.rows import Row
from ocrkit.evaluation.engines import detect_boxes
from ocrkit.models.read_files import PictureReader

if TYPE_CHECKING:
    from PIL.Image import Image

    from ocrkit.models.read import Prediction

Quad = tuple[Point, ...]  # four corners in pixels, clockwise from the text's top left
_MARGIN = 0.1  # of a line's height, kept above and below: detectors cut off marks
_GUTTER = 1.0  # of a line's height: a gap at least this wide and as high as its part of the page
_COLUMN = 6  # times a line's height: what is narrower (prices, numbers) is no column of text


class Line(TypedDict):
    """A line of a page: its corners in pixels, what was read, and how sure the reader was."""

    corners: list[list[float]]
    text: str
    confidence: float | None
    error: str | None


def detect_lines(picture: "Image") -> list[Quad]:
    """Corners of the lines of a picture (mode L or RGB), in reading order; [] where it has none.

    Raises:
        RuntimeError: RapidOCR is not installed.
    """
    quads = [tuple((float(x), float(y)) for x, y in box) for box in detect_boxes(picture)]
    return [quads[number] for number in reading_order(quads)]


def cut_line(picture: "Image", quad: Quad) -> "Image":
    """Cut a line out of a picture, straightened, with a margin above and below."""
    height = max(math.dist(quad[0], quad[3]), math.dist(quad[1], quad[2]))
    left, right = (_margin(quad[top], quad[bottom], height) for top, bottom in ((0, 3), (1, 2)))
    return straighten(picture, (left[0], right[0], right[1], left[1]))


def _margin(top: Point, bottom: Point, height: float) -> tuple[Point, Point]:
    """Move two corners apart by the margin."""
    length = math.dist(top, bottom) or 1.0
    x, y = ((b - t) / length * height * _MARGIN for t, b in zip(top, bottom))
    return (top[0] - x, top[1] - y), (bottom[0] + x, bottom[1] + y)


# --- reading order


def reading_order(quads: Sequence[Quad]) -> list[int]:
    """Order the lines of a page: columns from left to right, each from top to bottom.

    A gap that runs through the whole height of a part of the page divides columns, where what
    stands on both sides is wide enough for text; otherwise the part is cut at its highest gap from
    left to right. Boxes side by side, such as those of a table or a receipt, are one row.

    Returns:
        The quadrilaterals' numbers.
    """
    boxes = [_box(quad) for quad in quads]
    heights = sorted(bottom - top for _, top, _, bottom in boxes)
    height = heights[len(heights) // 2] if heights else 0.0
    return [number for row in _rows(list(range(len(boxes))), boxes, height) for number in row]


def _box(quad: Quad) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in quad], [y for _, y in quad]
    return min(xs), min(ys), max(xs), max(ys)


def _rows(numbers: list[int], boxes: Sequence[tuple], height: float) -> list[list[int]]:
    """Rows of boxes of a part of a page, each from left to right."""
    for left, right in _straight_cuts(numbers, boxes, axis=0):
        sides = [_extent(side, boxes, axis=0) for side in (left, right)]
        gap = sides[1][0] - sides[0][1]
        if gap >= _GUTTER * height and all(end - start >= _COLUMN * height for start, end in sides):
            return _rows(left, boxes, height) + _rows(right, boxes, height)
    halves = max(
        _straight_cuts(numbers, boxes, axis=1),
        key=lambda cut: _extent(cut[1], boxes, 1)[0] - _extent(cut[0], boxes, 1)[1],
        default=None,
    )
    if halves:
        return _rows(halves[0], boxes, height) + _rows(halves[1], boxes, height)
    return _side_by_side(numbers, boxes)


def _extent(numbers: list[int], boxes: Sequence[tuple], axis: int) -> tuple[float, float]:
    return min(boxes[n][axis] for n in numbers), max(boxes[n][axis + 2] for n in numbers)


def _straight_cuts(
    numbers: list[int], boxes: Sequence[tuple], axis: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Ways to cut boxes in two by a straight line that none crosses."""
    ordered = sorted(numbers, key=lambda number: boxes[number][axis])
    reached = -math.inf
    for place, number in enumerate(ordered):
        if place and boxes[number][axis] >= reached:
            yield ordered[:place], ordered[place:]
        reached = max(reached, boxes[number][axis + 2])


def _side_by_side(numbers: list[int], boxes: Sequence[tuple]) -> list[list[int]]:
    """Rows of boxes that no straight line divides: those whose middles lie in another's height."""
    rows: list[list[int]] = []
    for number in sorted(numbers, key=lambda n: boxes[n][1] + boxes[n][3]):
        middle = (boxes[number][1] + boxes[number][3]) / 2
        if rows and middle <= boxes[rows[-1][0]][3] and not _above(rows[-1], number, boxes):
            rows[-1].append(number)
        else:
            rows.append([number])
    return [sorted(row, key=lambda n: boxes[n][0]) for row in rows]


def _above(row: list[int], number: int, boxes: Sequence[tuple]) -> bool:
    """Whether a box of the row stands over this one, so that they are no row."""
    left, _, right, _ = boxes[number]
    shared = (min(right, boxes[n][2]) - max(left, boxes[n][0]) for n in row)
    return max(shared) > 0.3 * (right - left)


# --- reading


@dataclass
class _Page:
    """A page whose lines are being read; `answers` by the lines' numbers."""

    size: tuple[int, int] = (0, 0)
    quads: list[Quad] = field(default_factory=list)
    answers: "dict[int, Prediction]" = field(default_factory=dict)
    error: str | None = None


class LineReader:
    """Reads pages line by line with a reader of lines, such as a model or a server.

    A page's prediction has its lines' texts, one below the other, the mean of their confidences,
    and besides `lines` (see `Line`) and `size` (width, height) in pixels. It failed where a line
    did; the texts of the others are kept.

    Args:
        reader: reads a row a line.
    """

    def __init__(self, reader: PictureReader) -> None:
        self.reader = reader
        # Pages are cut at the size that they have.
        self.config = replace(reader.config, image_height=None)

    def fingerprint(self, rows: Sequence[Row]) -> str:
        """Checksum of the reader's settings and the detector's version."""
        stamp = f"{self.reader.fingerprint(rows)} lines by rapidocr {version('rapidocr')}"
        return hashlib.sha256(stamp.encode()).hexdigest()[:16]

    def read_stream(self, rows: Iterable[Row]) -> "Iterator[Prediction]":
        """Read pages as they come; a page is yielded when its last line is read."""
        pages: dict[str, _Page] = {}
        for answer in self.reader.read_stream(_line_rows(rows, pages)):
            number, _, id = answer["id"].partition(" ")
            pages[id].answers[int(number)] = answer
            if len(pages[id].answers) == len(pages[id].quads):
                yield _prediction(id, pages.pop(id))
        for id, page in pages.items():  # those without a line
            yield _prediction(id, page)


def _line_rows(rows: Iterable[Row], pages: dict[str, _Page]) -> Iterator[Row]:
    """A row for each line of each page; `pages` gets the pages."""
    for row in rows:
        page = pages[row["id"]] = _Page()
        try:
            picture = open_image(row["images"][0])
            page.size, quads = picture.size, detect_lines(picture)
            pictures = [cut_line(picture, quad) for quad in quads]
        except (OSError, ValueError) as error:
            page.error = " ".join(str(error).split())
            continue
        page.quads = quads
        for number, line in enumerate(pictures):
            yield {"id": f"{number} {row['id']}", "prompt": row["prompt"], "images": [line]}


def _prediction(id: str, page: _Page) -> Any:
    answers = [page.answers[number] for number in range(len(page.quads))]
    lines: list[Line] = [
        {
            "corners": [[round(x, 1), round(y, 1)] for x, y in quad],
            "text": answer["prediction"],
            "confidence": answer["confidence"],
            "error": answer["error"],
        }
        for quad, answer in zip(page.quads, answers)
    ]
    sure = [line["confidence"] for line in lines if line["confidence"] is not None]
    failed = [line["error"] for line in lines if line["error"]]
    error = page.error
    if failed:
        error = f"{len(failed)} of {len(lines)} lines failed: {failed[0]}"
    cut = any(answer["finish_reason"] == "length" for answer in answers)
    return {
        "id": id,
        "prediction": "\n".join(line["text"] for line in lines),
        "confidence": round(sum(sure) / len(sure), 6) if sure else None,
        "finish_reason": "error" if error else "length" if cut else "stop",
        "error": error,
        "size": list(page.size),
        "lines": lines,
    }
