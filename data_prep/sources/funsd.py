"""FUNSD forms: entities as lines, whole forms as pages, or questions with their answers as JSON."""

from collections.abc import Iterator
from types import SimpleNamespace

from data_prep.dataset.archive import Tree, picture_tree
from data_prep.dataset.schema import Item, Picture, Reject, clean_text, dump_json
from data_prep.sources import IMAGES, slug, stem
from data_prep.sources._pages import WRONG_SHAPE, Page, Word, page_rows, read_json

EXAMPLE = "funsd/dataset --task fields --out data/funsd"
TASKS = ("lines", "pages", "fields")
OPTIONS = {"images": None}
PROMPT = "Extract the questions of this form and their answers as JSON."


def rows(path: str, options: SimpleNamespace) -> Iterator[Item | Reject]:
    """One item per entity (`lines`) or per form; pictures lie in `images` beside `annotations`."""
    tree = Tree(path, options)
    images = picture_tree(tree, options)
    for name in tree.files("*.json"):
        try:
            form = read_json(tree, name)["form"]
            words = [Word(e["text"], e["box"], {"label": e["label"]}) for e in form]
            answers = fields(form) if options.task == "fields" else {}
        except WRONG_SHAPE as error:
            yield Reject(name, "malformed JSON", f"{type(error).__name__}: {error}")
            continue
        image, key, split = find_image(images, name), slug(stem(name)), tree.split(name)
        if options.task != "fields":
            # Entities without a text are boxes to fill in.
            if options.task == "pages":
                words = [word for word in words if word.text != ""]
            page = Page(image, None, words)
            yield from page_rows(images, page, name, key, options, language="en", split=split)
            continue
        yield Item(
            key=key,
            where=name,
            text=dump_json(answers) if answers else "",
            pictures=[Picture(images.loader(image))],
            group=stem(image),
            language="en",
            task="extraction",
            split=split,
            prompt=PROMPT,
        )


def find_image(tree: Tree, name: str) -> str:
    """The picture of an annotation file, in the parallel folder or beside it."""
    for folder in (stem(name).replace("annotations/", "images/"), stem(name)):
        for pattern in IMAGES:
            if (image := folder + pattern.removeprefix("*")) in tree:
                return image
    return tree.picture_of(stem(name)) or f"{stem(name).replace('annotations/', 'images/')}.png"


def fields(form: list[dict]) -> dict[str, str | list[str]]:
    """{question: answer} along the links from questions to answers; several make a list."""
    entities = {entity["id"]: entity for entity in form}
    answers: dict[str, list[str]] = {}
    for entity in form:
        question = clean_text(entity["text"]) if entity["label"] == "question" else ""
        if not question:
            continue
        linked = [b if a == entity["id"] else a for a, b in entity["linking"]]
        others = [entities[link] for link in linked if link in entities]
        texts = [clean_text(other["text"]) for other in others if other["label"] == "answer"]
        answers.setdefault(question, []).extend(filter(None, texts))
    return {
        question: texts[0] if len(texts) == 1 else (texts or "")
        for question, texts in answers.items()
    }
