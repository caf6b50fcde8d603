"""Cuts of a picture that are no upright rectangle: quadrilaterals put straight, polygons masked."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Point = tuple[float, float]
Box = tuple[int, int, int, int]  # left, top, right, bottom
UPRIGHT = 0.02  # height of a slope, as a share of its length, that is left as it is


def read_points(points: Sequence) -> tuple[Point, ...]:
    """Points of numbers in either of their forms, [[x, y], ...] or [x1, y1, ...], as pairs."""
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
    """The part of a picture in mode L or RGB between four corners, as an upright rectangle.

    The corners begin at the text's top left; counterclockwise ones are turned round, for a picture
    is never mirrored. What lies outside the picture is white. ValueError where they hold no area.
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
    rows, values = [], []
    for (x, y), (u, v) in zip(target, corners):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    try:
        coefficients = np.linalg.solve(np.array(rows, float), np.array(values, float))
    except np.linalg.LinAlgError:
        raise ValueError(f"corners {corners} are of no quadrilateral") from None
    white = 255 if image.mode == "L" else (255, 255, 255)
    return image.transform(
        (width, height),
        Image.Transform.PERSPECTIVE,
        coefficients.tolist(),
        Image.Resampling.BICUBIC,
        fillcolor=white,
    )


def masked(image: Image.Image, points: Sequence[Point], box: Box) -> Image.Image:
    """The part of a picture in mode L or RGB in a box, white outside the polygon of the points."""
    inside = Image.new("1", (box[2] - box[0], box[3] - box[1]))
    moved = [(x - box[0], y - box[1]) for x, y in points]
    ImageDraw.Draw(inside).polygon(moved, fill=1, outline=1)
    white = Image.new(image.mode, inside.size, "white")
    return Image.composite(image.crop(box), white, inside)


def area(points: Sequence[Point]) -> float:
    """A polygon's area, positive where its points go clockwise as pictures show them."""
    pairs = zip(points, [*points[1:], points[0]])
    return sum(x * other_y - other_x * y for (x, y), (other_x, other_y) in pairs) / 2
