"""PAGE XML and ALTO: lines cut out along their polygons, or whole pages in reading order.

Of two files about one picture, PAGE is read. A file without its picture's name, such as ALTO often
is, goes with the picture of its own name, or of its number where that is only one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.crops import enclosing_box, read_points
from data_prep.dataset.pictures import PictureError, read_header
from data_prep.dataset.schema import Item, Picture, Reject, clean_text
from data_prep.sources import IMAGES, folder_of, slug, stem
from data_prep.sources._pages import WRONG_SHAPE, stated_size

if TYPE_CHECKING:
    from lxml.etree import _Element

EXAMPLE = "pages/ --task lines --language de --out data/lines"
TASKS = ("lines", "pages")
OPTIONS = {"images": None, "language": "und"}
ROOTS = {"PcGts": "PAGE", "alto": "ALTO"}


@dataclass
class Line:
    """A line of text: its name, its text (None without any) and its outline, None where broken."""

    name: str
    text: str | None
    points: list[tuple[float, float]] | None


@dataclass
class XmlPage:
    """A page: its picture's name if stated, its stated size, its lines in reading order."""

    image: str | None
    size: tuple[int, int] | None
    lines: list[Line]
    is_pixels: bool = True


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per line or page; the group is the page's picture."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    file_of: dict[str, str] = {}  # {picture: the file whose lines of it were read}
    names = [(name, kind) for name in tree.files("*.xml") if (kind := kind_of(tree, name))]
    for name, kind in sorted(names, key=lambda pair: pair[1] != "PAGE"):
        try:
            pages = read_pages(tree, name, kind)
        except (PictureError, *WRONG_SHAPE) as error:
            yield Reject(name, "malformed XML", f"{type(error).__name__}: {error}"[:200])
            continue
        for number, page in enumerate(pages):
            image = find_image(images, name, page.image)
            other = file_of.setdefault(image, name)
            where = name if len(pages) == 1 else f"{name} page {number + 1}"
            key = slug(stem(name)) + (f"-p{number + 1:03d}" if len(pages) > 1 else "")
            for item in page_items(images, image, page, where, key, options):
                if other != name:
                    yield Reject(item.where, f"said already in {other}")
                    continue
                if isinstance(item, Item):
                    item.split = tree.split(name) or images.split(image)
                yield item


def kind_of(tree: Tree, name: str) -> str | None:
    """PAGE or ALTO by a file's first bytes, None for other XML."""
    head = re.sub(rb"<\?.*?\?>|<!--.*?-->", b"", tree.head(name), flags=re.DOTALL)
    match = re.search(rb"<(?:\w+:)?(\w+)", head)
    return ROOTS.get(match[1].decode()) if match else None


def read_pages(tree: Tree, name: str, kind: str) -> list[XmlPage]:
    """The pages of a file; lxml's XMLSyntaxError, which is a SyntaxError, becomes a ValueError."""
    from lxml import etree

    # Nothing outside the file is read, and entities are not expanded.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True
    )
    try:
        root = etree.fromstring(tree.read(name), parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(str(error)) from None
    if root is None:
        raise ValueError("no element")
    return page_pages(root) if kind == "PAGE" else alto_pages(root)


def children(element: "_Element", *names: str) -> list["_Element"]:
    """An element's children of the given names, whatever their namespace."""
    return [child for child in element if isinstance(child.tag, str) and local(child) in names]


def local(element: "_Element") -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def first(element: "_Element", name: str) -> "_Element | None":
    """An element's first descendant of a name."""
    return next(element.iter(f"{{*}}{name}"), None)


# --- PAGE ---


def page_pages(root: "_Element") -> list[XmlPage]:
    """The page of a PAGE file; ValueError where it holds none."""
    page = first(root, "Page")
    if page is None:
        raise ValueError("no element Page")
    size = stated_size(*(parse_whole(page.get(side)) for side in ("imageWidth", "imageHeight")))
    regions = list(page.iter("{*}TextRegion"))
    order = reading_order(page)
    last = len(order)
    # Regions that the order leaves out come last, in the order of the file.
    regions.sort(key=lambda region: order.get(region.get("id"), last))
    lines = []
    for region in regions:
        own = children(region, "TextLine")
        lines += [page_line(line) for line in own]
        if not own and not list(region.iter("{*}TextLine")) and page_text(region) is not None:
            lines.append(page_line(region))
    return [XmlPage(page.get("imageFilename"), size, lines)]


def reading_order(page: "_Element") -> dict[str, int]:
    """The place of every region that the page's reading order names."""
    order: dict[str, int] = {}

    def walk(group: "_Element") -> None:
        members = [member for member in group if isinstance(member.tag, str)]
        if local(group).startswith("OrderedGroup"):
            members.sort(key=index_of)
        for member in members:
            if member.get("regionRef"):
                order.setdefault(member.get("regionRef"), len(order))
            walk(member)

    for top in children(page, "ReadingOrder"):
        walk(top)
    return order


def page_line(line: "_Element") -> Line:
    """A TextLine, or a region that has a text and no lines."""
    text = page_text(line)
    if text is None:
        words = [page_text(word) for word in children(line, "Word")]
        text = " ".join(word for word in words if word) if any(words) else None
    places = children(line, "Coords")
    return Line(line.get("id") or "", text, points_of(places[0]) if places else None)


def page_text(element: "_Element") -> str | None:
    """The text of an element's first TextEquiv, the one of the lowest index."""
    for equiv in sorted(children(element, "TextEquiv"), key=index_of):
        for unicode in children(equiv, "Unicode"):
            return "".join(unicode.itertext())
    return None


def points_of(coords: "_Element") -> list[tuple[float, float]] | None:
    """The polygon of a Coords: an attribute, or Point elements as in PAGE of 2010."""
    if (attribute := coords.get("points")) is not None:
        return polygon(numbers_in(attribute))
    points = children(coords, "Point")
    return polygon([float(point.attrib[side]) for point in points for side in "xy"])


def numbers_in(text: str) -> list[float]:
    """All numbers in a text."""
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def polygon(numbers: list[float]) -> list[tuple[float, float]] | None:
    """Numbers as points (x, y); None for fewer than two points or half a point."""
    good = len(numbers) >= 4 and len(numbers) % 2 == 0
    return list(zip(numbers[::2], numbers[1::2])) if good else None


def index_of(element: "_Element") -> int:
    """The whole number in an element's attribute `index`; 0 without any."""
    return parse_whole(element.get("index")) or 0


def parse_whole(text: str | None) -> int | None:
    """Parse a whole number in an attribute; None for other texts."""
    try:
        return int(float(text or ""))
    except (ValueError, OverflowError):
        return None


# --- ALTO ---


def alto_pages(root: "_Element") -> list[XmlPage]:
    """The pages of an ALTO file."""
    file, unit = first(root, "fileName"), first(root, "MeasurementUnit")
    is_pixels = unit is None or (unit.text or "").strip() in ("pixel", "")
    pages = []
    for page in root.iter("{*}Page"):
        size = stated_size(parse_whole(page.get("WIDTH")), parse_whole(page.get("HEIGHT")))
        lines = [alto_line(line) for line in page.iter("{*}TextLine")]
        name = (file.text or "").strip() if file is not None else ""
        pages.append(XmlPage(name or None, size, lines, is_pixels))
    return pages


def alto_line(line: "_Element") -> Line:
    """A TextLine: its strings with their spaces, and a hyphen at its end."""
    pieces = []
    for child in children(line, "String", "SP", "HYP"):
        if pieces and pieces[-1] != " " and local(child) == "String":
            pieces.append(" ")
        pieces.append(" " if local(child) == "SP" else child.get("CONTENT") or "")
    text = "".join(pieces) if pieces else None
    shapes = children(line, "Shape")
    outline = first(shapes[0], "Polygon") if shapes else None
    if outline is not None:
        return Line(line.get("ID") or "", text, polygon(numbers_in(outline.get("POINTS") or "")))
    sides = [line.get(side) for side in ("HPOS", "VPOS", "WIDTH", "HEIGHT")]
    try:
        left, top, width, height = map(float, sides)
    except TypeError:
        return Line(line.get("ID") or "", text, None)
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    return Line(line.get("ID") or "", text, corners)


# --- rows ---


def find_image(images: Tree, name: str, stated: str | None) -> str:
    """The picture that a file names, or the one of its own name or its number."""
    image = images.find(stated, folder_of(name)) if stated else ""
    if image and image in images:
        return image
    if beside := images.picture_of(stem(name)):
        return beside
    same = by_number(images).get(number_of(name), [])
    if len(same) == 1:  # a picture of another size is refused
        return same[0]
    return image or f"{stem(name)}.tif"


@lru_cache(maxsize=1)
def by_number(images: Tree) -> dict[str, list[str]]:
    """All pictures by the last number in their names."""
    numbered: dict[str, list[str]] = {}
    for image in images.files(*IMAGES, beside=True):
        if number := number_of(image):
            numbered.setdefault(number, []).append(image)
    return numbered


def number_of(name: str) -> str:
    """The last number in a file's name, "" without any."""
    return "".join(re.findall(r"\d+", stem(name).rpartition("/")[2])[-1:])


def page_items(
    images: Tree, image: str, page: XmlPage, where: str, key: str, options: SimpleNamespace
) -> Iterator[Item | Reject]:
    """The items of a page's lines, or the page as one."""
    load, language = images.loader(image), options.language
    if options.task == "pages":
        text = "\n".join(clean_text(line.text) for line in page.lines if line.text)
        size = page.size if page.is_pixels else None
        picture = Picture(load, None, size)
        yield Item(key, where, text, [picture], stem(image), language)
        return
    scale = None
    for index, line in enumerate(page.lines):
        place = f"{where} line {line.name or index}"
        if line.text is None:
            yield Reject(place, "null text")
            continue
        try:
            if line.points is None:
                raise ValueError("no outline")
            if not page.is_pixels and scale is None:
                scale = pixels_a_unit(load, page)
            points = read_points(line.points)
            if scale:
                points = tuple((x * scale[0], y * scale[1]) for x, y in points)
            box = enclosing_box([list(point) for point in points])
        except PictureError as error:
            yield Reject(place, error.reason, error.detail)
            continue
        except (ValueError, OSError) as error:
            yield Reject(place, "malformed box", str(error)[:200])
            continue
        xs, ys = map(set, zip(*points))
        is_box = len(points) == 4 and xs == {box[0], box[2]} and ys == {box[1], box[3]}
        mask = None if is_box or len(points) < 3 else points
        picture = Picture(load, box, page.size if page.is_pixels else None, mask=mask)
        yield Item(f"{key}-{index:04d}", place, line.text, [picture], stem(image), language)


def pixels_a_unit(load: partial, page: XmlPage) -> tuple[float, float]:
    """Pixels of the picture in a unit of the file, across and down."""
    if page.size is None:
        raise ValueError("the page states no size, which its unit is measured by")
    header = read_header(load())
    return header.width / page.size[0], header.height / page.size[1]
