"""Page layout: collect texts, rules and boxes, then draw them once the height is known.

The page keeps every text with its ink box, so that tests can check for clipped and overlapping
text. Coordinates are in units: 1,000 units are the width of an A4 page.
"""

import re
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from data_prep.synthetic.render import load_font

A4 = 297 / 210
OUTLINE = 1.2  # weight of a rectangle's outline in units
BLACK, GREY, PALE, WHITE = (0, 0, 0), (95, 95, 95), (236, 236, 236), (255, 255, 255)
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
# Line-break pieces: Chinese breaks after any character, but no line begins with punctuation.
_PIECES = re.compile(r"[\u2e80-\u9fff][，。、）：]?|[^\s\u2e80-\u9fff]+[，。、）：]?")


@dataclass(frozen=True)
class Text:
    """A line of text on a page, with its ink box in pixels; `of` is the text it belongs to."""

    text: str
    of: str
    box: Box
    at: tuple[float, float]
    font: ImageFont.FreeTypeFont
    colour: Colour


class Page:
    """A page of texts, rules and boxes in one font.

    Args:
        face: font files of the regular and the bold weight.
        scale: pixels a unit.
        width: of the page in units.
        size: default text size in units.
        spacing: distance of two lines, as a multiple of the text size.
    """

    def __init__(
        self,
        face: tuple[str, str],
        scale: float,
        width: float = 1000,
        size: float = 16,
        spacing: float = 1.42,
    ) -> None:
        self.face, self.scale, self.width, self.size = face, scale, width, size
        self.spacing = spacing
        self._measured: dict[tuple[str, float, bool], float] = {}
        self.height = 0.0
        self.texts: list[Text] = []
        self.shapes: list[tuple[Box, Colour | None, Colour | None]] = []

    def font(self, size: float | None = None, bold: bool = False) -> ImageFont.FreeTypeFont:
        """Font of the page at a size in units; None is the default size."""
        return load_font(self.face[bold], round((size or self.size) * self.scale))

    def leading(self, size: float | None = None) -> float:
        """Distance of two lines in units."""
        return round((size or self.size) * self.spacing)

    def measure(self, text: str, size: float | None = None, bold: bool = False) -> float:
        """Width of the widest line of a text in units."""
        key = str(text), size or self.size, bold
        if key not in self._measured:
            font = self.font(size, bold)
            widest = max(font.getlength(line) for line in key[0].split("\n"))
            self._measured[key] = widest / self.scale
        return self._measured[key]

    def wrap(self, text: str, width: float, size: float | None, bold: bool) -> list[str]:
        """Split a text into lines of at most `width` units; longer words are broken."""
        lines = []
        for paragraph in text.split("\n"):
            if self.measure(paragraph, size, bold) <= width:
                lines.append(paragraph)
                continue
            line = ""
            for piece in _PIECES.finditer(paragraph):
                gap = " " if line and paragraph[piece.start() - 1].isspace() else ""
                longer = line + gap + piece[0]
                if line and self.measure(longer, size, bold) > width:
                    lines.append(line)
                    longer = piece[0]
                while len(longer) > 1 and self.measure(longer, size, bold) > width:
                    fits = 1
                    while self.measure(longer[: fits + 1], size, bold) <= width:
                        fits += 1
                    lines.append(longer[:fits])
                    longer = longer[fits:]
                line = longer
            lines.append(line)
        return lines

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float | None = None,
        bold: bool = False,
        align: str = "left",
        width: float | None = None,
        colour: Colour = BLACK,
        upper: bool = False,
    ) -> float:
        """Add a text whose first line has its top at `y`; returns the top of the next line.

        `align` ("left", "right" or "middle") tells which edge is at `x`; a `width` wraps the text.
        """
        size = size or self.size
        shown = text.upper() if upper else str(text)
        lines = shown.split("\n") if width is None else self.wrap(shown, width, size, bold)
        font = self.font(size, bold)
        for line in lines:
            if not line.strip():
                continue
            left, top, right, bottom = font.getbbox(line, anchor="ls")
            share = {"left": 0, "right": 1, "middle": 0.5}[align]
            length = share and self.measure(line, size, bold) * self.scale
            start = x * self.scale - share * length
            base = round((y + 1.06 * size) * self.scale)
            start = round(start)
            box = (start + left, base + top, start + right, base + bottom)
            self.texts.append(Text(line, text, box, (start, base), font, colour))
            y += self.leading(size)
        return y

    def rule(self, x0: float, y: float, x1: float, weight: float = 1.0, c: Colour = BLACK) -> None:
        """Add a horizontal rule."""
        self.box(x0, y, x1, y + weight, fill=c)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        *,
        fill: Colour | None = None,
        line: Colour | None = None,
    ) -> None:
        """Add a rectangle, filled or outlined."""
        self.shapes.append(((x0, y0, x1, y1), fill, line))

    def end(self, y: float, footer: str = "", paper: float | None = A4) -> None:
        """Set the height: `paper` times the width, or more if the content ends lower, at `y`."""
        room = 90 if footer else 40
        self.height = max((paper or 0) * self.width, y + room)
        if footer:
            top = self.height - 70
            self.rule(60, top, self.width - 60, 1, GREY)
            self.text(
                self.width / 2, top + 12, footer, size=13, align="middle", colour=GREY,
                width=self.width - 140,
            )  # fmt: skip

    def draw(self) -> Image.Image:
        """Draw the page; the picture is grey ("L") if no colour was used."""
        colours = {text.colour for text in self.texts}
        colours |= {c for _, fill, line in self.shapes for c in (fill, line) if c}
        mode = "L" if all(len(set(c)) == 1 for c in colours) else "RGB"

        def ink(colour: Colour | None) -> int | Colour | None:
            return colour if colour is None or mode == "RGB" else colour[0]

        size = round(self.width * self.scale), round(self.height * self.scale)
        image = Image.new(mode, size, "white")
        canvas = ImageDraw.Draw(image)
        outline = max(1, round(OUTLINE * self.scale))
        for box, fill, line in self.shapes:
            x0, y0, x1, y1 = (round(side * self.scale) for side in box)
            corners = x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)
            canvas.rectangle(corners, ink(fill), ink(line), outline)
        for text in self.texts:
            canvas.text(text.at, text.text, ink(text.colour), text.font, anchor="ls")
        return image
