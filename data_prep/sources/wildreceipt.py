"""WildReceipt (JSONL and class_list.txt): text boxes as lines, or the classes' values as JSON."""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.crops import enclosing_box
from data_prep.dataset.schema import Item, Picture, Reject, clean_text, dump_json, parse_json
from data_prep.sources import folder_of, slug, stem

EXAMPLE = "wildreceipt/train.txt wildreceipt/test.txt --task fields --out data/wildreceipt"
TASKS = ("lines", "fields")
OPTIONS = {"images": None}
PROMPT = (
    "Extract the store's name, address and telephone, the date and time, the products with their "
    "quantities and prices, and the subtotal, tax, tips and total of this receipt as JSON."
)


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per annotated box (`lines`) or per receipt (`fields`)."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    files = [name for name in tree.files("*.txt", "*.jsonl", "*.json") if is_label_file(tree, name)]
    for name in files:
        key = "" if len(files) == 1 else slug(stem(name)) + "-"
        classes = read_classes(tree, folder_of(name))
        for number, line in tree.lines(name):
            where = f"{name}:{number}"
            try:
                receipt = parse_json(line)
                image, annotations = receipt["file_name"], receipt["annotations"]
                size = receipt["width"], receipt["height"]
                if not isinstance(image, str) or not isinstance(annotations, list):
                    raise ValueError("file_name or annotations of a wrong type")
                if not all(isinstance(side, int) for side in size):
                    raise ValueError("width or height is no whole number")
            except (ValueError, KeyError, TypeError) as error:
                yield Reject(where, "malformed line", f"{type(error).__name__}: {error}")
                continue
            image = images.find(image, folder_of(name), tree.label_split(name))
            picture = Picture(images.loader(image), size=size)
            read = receipt_lines if options.task == "lines" else receipt_fields
            for item in read(annotations, classes, picture, where):
                if isinstance(item, Item):
                    item.key = f"{key}{number:05d}{item.key}"
                    item.group, item.language = image, "en"
                    item.split = tree.label_split(name)
                yield item


def is_label_file(tree: Tree, name: str) -> bool:
    """Whether a file's first line is an object with annotations, not a note or a class list."""
    if tree.only:
        return True
    return any('"annotations"' in line for number, line in tree.lines(name) if number == 1)


def read_classes(tree: Tree, folder: str) -> dict[int, str]:
    """{label: class name} of the class_list.txt beside the labels; empty where there is none."""
    name = f"{folder}/class_list.txt".lstrip("/")
    if name not in tree:
        return {}
    pairs = [line.split() for _, line in tree.lines(name)]
    return {int(pair[0]): pair[1] for pair in pairs if len(pair) == 2 and pair[0].isdecimal()}


def receipt_lines(
    annotations: list, classes: dict[int, str], picture: Picture, where: str
) -> Iterator[Item | Reject]:
    """Every annotation of a receipt, whatever its class."""
    for index, annotation in enumerate(annotations):
        place = f"{where} annotation {index}"
        try:
            text, label = annotation["text"], annotation["label"]
            if not isinstance(text, str) or not isinstance(label, int):
                raise ValueError("text or label of a wrong type")
            box = enclosing_box(annotation["box"])
        except (ValueError, KeyError, TypeError) as error:
            yield Reject(place, "malformed annotation", f"{type(error).__name__}: {error}")
            continue
        meta = {"class": classes.get(label, str(label))}
        cut = Picture(picture.load, box, picture.size)
        yield Item(f"-{index:04d}", place, text, [cut], "", "en", meta=meta)


def receipt_fields(
    annotations: list, classes: dict[int, str], picture: Picture, where: str
) -> Iterator[Item | Reject]:
    """A receipt's value classes: products as lists, everything else as one text."""
    if not classes:
        yield Reject(where, "missing annotation", "no class_list.txt says what the labels mean")
        return
    values: dict[str, list[str]] = {}
    for annotation in annotations:
        label = annotation.get("label") if isinstance(annotation, dict) else None
        text = annotation.get("text") if isinstance(annotation, dict) else None
        if not isinstance(text, str) or not isinstance(label, int):
            yield Reject(where, "malformed annotation", f"{annotation!r}"[:200])
            return
        name = classes.get(label, "").lower()
        if name.endswith("_value") and clean_text(text):
            values.setdefault(name.removesuffix("_value"), []).append(clean_text(text))
    order = [name.lower().removesuffix("_value") for _, name in sorted(classes.items())]
    fields = {
        name: values[name] if name.startswith("prod_") else " ".join(values[name])
        for name in order
        if name in values
    }
    text = dump_json(fields) if fields else ""
    yield Item("", where, text, [picture], "", "en", task="extraction", prompt=PROMPT)
