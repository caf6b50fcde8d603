"""A picture of one's own, read before and after training, token by token, in a notebook's cell."""

import base64
import binascii
import functools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup

from data_prep.dataset.command import expand_home
from data_prep.dataset.pictures import PictureError, open_image
from ocrkit.data.rows import text_of
from ocrkit.display.notebook import STYLE, Shown, is_interactive, widget_bundle
from ocrkit.evaluation.browser import html_row
from ocrkit.evaluation.browser import picture as picture_tag

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

    from ocrkit.config import TrainConfig
    from ocrkit.data.rows import Row

_ASSETS = Path(__file__).parents[1] / "assets"
UNSURE = 0.8  # probability of a token below which its text is marked
REDRAW = 0.1  # seconds between two drawings of a text that is being written
#: Text and probability of each token of a reading.
Pieces = list[tuple[str, float]]


def read_own_picture(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    config: "TrainConfig",
    rows: "Dataset | Sequence[Row]",
    picture: str | Path = "",
) -> "Shown | PictureReader":
    """Read a picture before and after training, side by side, and mark where a model is unsure.

    In an interactive notebook a picture can be uploaded, pasted, or given as a path or a data
    address, and the texts appear token by token. Elsewhere, such as under papermill, it is a table.
    Before training means without the adapters; where every weight was trained, that is left out.

    Args:
        model: the trained model.
        processor: its processor.
        config: the run's settings.
        rows: rows of a dataset; the first gives the question, and without `picture` the picture.
        picture: file to read first; empty for the first row's.
    """
    reader = PictureReader(model, processor, config, cast("Row", rows[0]))
    if not is_interactive():
        return reader.read(str(picture))
    reader.show(str(picture))
    return reader


class PictureReader:
    """Widgets to choose a picture, and its readings; `read` works without widgets too."""

    def __init__(
        self,
        model: "PreTrainedModel",
        processor: "ProcessorMixin",
        config: "TrainConfig",
        row: "Row",
    ):
        self.model, self.processor, self.config, self.row = model, processor, config, row
        self.box: Any = None
        self.shown = Shown(Markup(""), "")

    def read(self, source: str | bytes = "", draw: Callable[[Markup], None] | None = None) -> Shown:
        """Read a picture; a file that is none gives a sentence instead of readings.

        Args:
            source: its path, data address or bytes; empty for the first row's picture.
            draw: called with the HTML of what was read so far.
        """
        try:
            image = open_image(_content(source) if source else self.row["images"][0])
        except (PictureError, OSError, ValueError) as error:
            name = "The upload" if isinstance(source, bytes) else f"{source:.80}"
            text = f"{name} cannot be read: {error}. Give a picture, such as a PNG or a JPEG."
            return Shown(Markup("<p>{}</p>").format(text), text)
        before = getattr(self.model, "disable_adapter", None)
        contexts = {"before": before, "after": nullcontext} if before else {"after": nullcontext}
        lines: list[Markup] = [Markup("")] * len(contexts)
        texts = []
        truth = "" if source else text_of(self.row["completion"])
        head = Markup("<tr><td colspan='3'>{}</td></tr>").format(picture_tag(image))
        if truth:
            head += html_row("truth", Markup("{}").format(truth), "")
            texts.append(f"truth: {truth}")

        def page() -> Markup:
            table = Markup("<table>{}{}</table><p class='soft'>{}</p>")
            note = f"Marked: the model was less than {UNSURE:.0%} sure."
            return table.format(head, Markup("").join(lines), note)

        for number, (name, context) in enumerate(contexts.items()):

            def written(pieces: Pieces, number: int = number, name: str = name) -> None:
                lines[number] = html_row(name, _marked(pieces), "…")
                if draw:
                    draw(page())

            with context():
                text, confidence = self._read(image, written)
            pieces = self.pieces
            lines[number] = html_row(name, _marked(pieces), f"confidence {confidence:.2f}")
            texts.append(f"{name}: {text} (confidence {confidence:.2f})")
        return Shown(page(), "\n".join(texts))

    def _read(self, image: "Image", written: Callable[[Pieces], None]) -> tuple[str, float]:
        """Text and confidence of a picture; `pieces` then holds its tokens."""
        from ocrkit.data.collate import Collator
        from ocrkit.models.backend import inference_mode
        from ocrkit.models.read import read_batch

        row: Row = {"id": "own", "prompt": self.row["prompt"], "images": [image]}
        collate = Collator(self.processor, self.config.image_height, generation=True)
        drawn = 0.0
        self.pieces: Pieces = []

        def watch(tokens: list[tuple[int, float]]) -> None:
            nonlocal drawn
            self.pieces = _pieces(tokens, collate.tokenizer)
            if time.perf_counter() - drawn > REDRAW:
                drawn = time.perf_counter()
                written(self.pieces)

        with inference_mode(self.model):
            (reading,) = read_batch(self.model, collate, [row], self.config, watch)
        if reading["error"]:
            self.pieces = [(reading["error"], 1.0)]
        return reading["prediction"], reading["confidence"] or 0.0

    # --- widgets

    def show(self, source: str = "") -> None:
        """Make the widgets and read the first picture."""
        import ipywidgets as widgets

        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="Upload")
        self.path = widgets.Text(
            placeholder="path of a picture, or a data:image/… address",
            layout={"flex": "1 1 240px", "min_width": "0"},
        )
        self.button = widgets.Button(description="Read", icon="eye")
        self.body = widgets.HTML()
        self.upload.observe(self._uploaded, "value")
        self.path.continuous_update = False
        self.button.on_click(lambda _: self._draw(self.path.value.strip()))
        self.paste = _paste_field()
        chosen = [self.upload, self.path, self.button]
        if self.paste is not None:
            self.paste.on_msg(self._pasted)
            chosen.append(self.paste)
        top = widgets.HBox(chosen, layout={"flex_flow": "row wrap"})
        self.box = widgets.VBox([top, self.body], layout={"max_width": "1040px"})
        self._draw(source)

    def _uploaded(self, change: object) -> None:
        files = self.upload.value
        if files:
            # ipywidgets 7, which Colab has, gives {name: file}, and 8 a tuple of files.
            file = next(iter(files.values())) if isinstance(files, dict) else files[0]
            self._draw(bytes(file["content"]))

    def _pasted(self, widget: object, message: dict[str, Any], buffers: list[bytes]) -> None:
        if buffers:
            self._draw(bytes(buffers[0]))
        elif message.get("text"):
            self._draw(str(message["text"]))
        else:
            self._say("The clipboard holds no picture: copy one, and paste it here again.")

    def _say(self, text: str) -> None:
        self.shown = Shown(Markup("<p>{}</p>").format(text), text)
        self.body.value = str(self.shown.html)

    def _draw(self, source: str | bytes) -> None:
        def draw(html: Markup) -> None:
            self.body.value = str(Markup("{}<div class='ocrkit'>{}</div>").format(STYLE, html))

        self.shown = self.read(source, draw)
        self.body.value = str(self.shown.html)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return widget_bundle(self.box, self.shown)


@functools.cache
def _paste_class() -> Any:
    import anywidget

    class PasteField(anywidget.AnyWidget):
        _esm = _ASSETS / "paste.js"

    return PasteField


def _paste_field() -> Any:
    """Field that a picture is pasted into; None without anywidget, which sees the clipboard."""
    try:
        return _paste_class()()
    except ImportError:
        return None


def _content(source: str | bytes) -> str | bytes:
    """The bytes of a data address, or the path with the home folder filled in."""
    if isinstance(source, bytes) or not source.startswith("data:"):
        return expand_home(source)
    try:
        return base64.b64decode(source.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise ValueError(f"its data address is damaged ({error})") from None


def _pieces(tokens: list[tuple[int, float]], tokenizer: "PreTrainedTokenizerBase") -> Pieces:
    """Texts that tokens add, with their probabilities; a letter of several tokens is one piece."""
    pieces: Pieces = []
    text, least = "", 1.0
    ids = [token for token, _ in tokens]
    for number, (_, probability) in enumerate(tokens, 1):
        least = min(least, probability)
        longer = str(tokenizer.decode(ids[:number], skip_special_tokens=True))
        if len(longer) > len(text) and not longer.endswith("\ufffd"):
            pieces.append((longer[len(text) :], least))
            text, least = longer, 1.0
    return pieces


def _marked(pieces: Pieces) -> Markup:
    """The text of tokens, those marked that the model was unsure of."""
    mark = Markup("<mark title='{:.0%}'>{}</mark>")
    return Markup("").join(
        mark.format(probability, text) if probability < UNSURE else Markup("{}").format(text)
        for text, probability in pieces
    )
