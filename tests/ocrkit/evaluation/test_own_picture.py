import base64
import io
import sys
from types import SimpleNamespace

import ipywidgets
import pytest
from PIL import Image

from ocrkit import TrainConfig, load_model
from ocrkit.data.read_rows import drawn_rows
from ocrkit.evaluation import own_picture
from ocrkit.evaluation.own_picture import PictureReader, read_own_picture


@pytest.fixture(scope="module")
def reading():
    """An embedded reader with fresh adapters, and a drawn row."""
    config = TrainConfig.from_recipe("quickstart", max_new_tokens=12)
    return (*load_model(config), config, drawn_rows(1))


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "line.png"
    Image.new("RGB", (200, 30), "white").save(path)
    return path


def test_own_picture_without_widgets_reads_the_first_row(reading):
    shown = read_own_picture(*reading)
    lines = repr(shown).splitlines()
    assert lines[0].startswith("truth: ")
    # Fresh adapters change nothing.
    assert lines[1].removeprefix("before") == lines[2].removeprefix("after")
    assert "(confidence 0." in lines[1] or "(confidence 1." in lines[1]
    html = str(shown.html)
    assert "data:image/" in html and "less than 80% sure" in html


def test_own_picture_text_is_streamed_by_token(reading):
    drawn = []
    own_picture.REDRAW, before = 0, own_picture.REDRAW
    try:
        PictureReader(*reading[:3], reading[3][0]).read(draw=drawn.append)
    finally:
        own_picture.REDRAW = before
    assert len(drawn) > 4 and "…" in drawn[0]
    assert len(set(map(str, drawn))) > 3


def test_own_picture_reads_a_path_data_url_or_upload(reading, png):
    reader = PictureReader(*reading[:3], reading[3][0])
    address = "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()
    texts = {repr(reader.read(source)) for source in (str(png), address, png.read_bytes())}
    (text,) = texts
    assert text.startswith("before: ") and "truth" not in text


@pytest.mark.parametrize("source", ["/nowhere.png", b"no picture", "data:image/png;base64,x!"])
def test_own_picture_that_is_no_picture_is_one_sentence(reading, source):
    reader = PictureReader(*reading[:3], reading[3][0])
    text = repr(reader.read(source))
    assert "cannot be read: " in text and text.endswith("Give a picture, such as a PNG or a JPEG.")
    assert "\n" not in text
    # The next one is read.
    assert repr(reader.read()).startswith("truth")


def test_widgets_read_an_upload_of_ipywidgets_7_and_8(reading, png, monkeypatch):
    monkeypatch.setattr(own_picture, "is_interactive", lambda: True)
    reader = read_own_picture(*reading)
    assert "truth" in reader.body.value
    bundle = reader._repr_mimebundle_()
    assert bundle["text/plain"].startswith("truth") and len(bundle) == 3
    content = memoryview(png.read_bytes())
    for value in ({"line.png": {"content": content.tobytes()}}, ({"content": content},)):
        reader.body.value = ""
        reader.upload = SimpleNamespace(value=value)
        reader._uploaded(None)
        assert "truth" not in reader.body.value and "before" in reader.body.value
    reader.path.value = "/nowhere.png"
    reader.button.click()
    assert "cannot be read" in reader.body.value
    assert isinstance(reader.box, ipywidgets.VBox)
    # From the clipboard: a picture, an address as text, and neither.
    address = "data:image/png;base64," + base64.b64encode(content).decode()
    for text, buffers in (("", [content]), (address, [])):
        reader._pasted(reader.paste, {"text": text}, buffers)
        assert "truth" not in reader.body.value and "before" in reader.body.value
    reader._pasted(reader.paste, {"text": "a list of things"}, [])
    assert "cannot be read" in reader.body.value
    reader._pasted(reader.paste, {"text": ""}, [])
    assert "The clipboard holds no picture" in reader.body.value
    reader._uploaded(None)
    assert "before" in reader.body.value


def test_without_anywidget_there_is_no_field_to_paste_into(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    own_picture._paste_class.cache_clear()
    assert own_picture._paste_field() is None


def test_letter_of_several_tokens_is_shown_as_one():
    texts = {(1,): "a", (1, 2): "a\ufffd", (1, 2, 3): "aক", (1, 2, 3, 4): "aক"}
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: texts[tuple(ids)])
    tokens = [(1, 0.9), (2, 0.4), (3, 0.7), (4, 0.99)]
    pieces = own_picture._pieces(tokens, tokenizer)
    assert pieces == [("a", 0.9), ("ক", 0.4)]
    assert str(own_picture._marked(pieces)) == "a<mark title='40%'>ক</mark>"


def test_pictures_of_any_mode_are_read(reading):
    file = io.BytesIO()
    Image.new("RGBA", (90, 30)).save(file, "PNG")
    assert "after: " in repr(PictureReader(*reading[:3], reading[3][0]).read(file.getvalue()))
